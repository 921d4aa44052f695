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
Status cuda_stream_create(int device, void** stream) noexcept;
void cuda_stream_destroy(void* stream) noexcept;
Status cuda_copy(void* stream, void* to, const void* from,
                 std::size_t bytes) noexcept;  // any direction, asynchronous
Status cuda_fill(void* stream, void* at, int byte, std::size_t bytes) noexcept;
Status cuda_stream_wait(void* stream) noexcept;  // also reports errors of earlier launches

}  // namespace k
