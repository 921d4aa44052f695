// CUDA's runtime without CUDA's headers: memory, streams, copies, cards. Implemented in runtime.cu, for CUDA
// builds only.
#pragma once
#include <cstddef>
#include <string>

#include "kernels/types.h"

namespace k {

int cuda_device_count() noexcept;  // 0 without a driver or a card
std::string cuda_device_name(int device);
Status cuda_allocate_zeroed(int device, std::size_t bytes, void** at) noexcept;
void cuda_free(void* at) noexcept;

// A queue: a stream of its own and what matrix products need beside it.
Status cuda_queue_create(int device, void** queue) noexcept;
void cuda_queue_destroy(void* queue) noexcept;
// Any direction; with pageable host memory the source may be reused when the call returns.
Status cuda_copy(void* queue, void* to, const void* from, std::size_t bytes) noexcept;
Status cuda_fill(void* queue, void* at, int byte, std::size_t bytes) noexcept;
Status cuda_queue_wait(void* queue) noexcept;  // also reports errors of earlier launches

}  // namespace k
