// CUDA's runtime without CUDA's headers: memory, streams, copies, cards. Implemented in runtime.cu, for CUDA
// builds only.
#pragma once
#include <cstddef>
#include <string>

#include "kernels/types.h"

namespace k {

int cuda_device_count() noexcept;  // 0 without a driver or a card
std::string cuda_device_name(int device);
bool cuda_has_code_for(int device) noexcept;          // kernels of this build run on that card
int cuda_architecture(int device) noexcept;           // 90 for sm_90, 0 unknown
std::size_t cuda_memory_in_use(int device) noexcept;  // of the card, in bytes, by everybody
Status cuda_allocate_zeroed(int device, std::size_t bytes, void** at) noexcept;
void cuda_free(void* at) noexcept;
// Host memory that the card reads and writes by itself.
Status cuda_allocate_pinned(int device, std::size_t bytes, void** at) noexcept;
void cuda_free_pinned(void* at) noexcept;

// A queue: a stream of its own and what matrix products need beside it.
Status cuda_queue_create(int device, void** queue) noexcept;
// A queue of the same card of lower priority, with the other's plans and a workspace of its own.
Status cuda_queue_create_beside(void* queue, void** beside) noexcept;
void cuda_queue_destroy(void* queue) noexcept;
// Any direction; with pageable host memory the source may be reused when the call returns.
Status cuda_copy(void* queue, void* to, const void* from, std::size_t bytes) noexcept;
Status cuda_fill(void* queue, void* at, int byte, std::size_t bytes) noexcept;
Status cuda_queue_wait(void* queue) noexcept;  // also reports errors of earlier launches

// A moment of a queue's work.
Status cuda_event_create(int device, void** event) noexcept;
void cuda_event_destroy(void* event) noexcept;
Status cuda_event_record(void* event, void* queue) noexcept;
Status cuda_event_wait(void* event) noexcept;
Status cuda_queue_follow(void* queue, void* event) noexcept;  // what is queued from now on runs after it
Status cuda_event_seconds(void* from, void* to, double* seconds) noexcept;  // both have happened

// What is queued between begin and end is recorded instead of run; the graph replays it with the same
// arguments. A failed recording leaves the queue usable and *graph null.
Status cuda_record_begin(void* queue) noexcept;
Status cuda_record_end(void* queue, void** graph) noexcept;
Status cuda_replay(void* queue, void* graph) noexcept;
void cuda_graph_destroy(void* graph) noexcept;

}  // namespace k
