#include "engine/device.h"

#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "engine/error.h"
#include "kernels/matmul.h"
#include "kernels/runtime.h"

namespace engine {
namespace {

constexpr std::size_t kLargePages = std::size_t(8) << 20;  // bytes from which they are asked for

[[maybe_unused]] void check(const k::Status& status, const char* doing) {
  if (!status.ok()) throw DeviceError(fmt::format("{}: {}", doing, status.what), Exit::gpu);
}

}  // namespace

int cuda_device_count() noexcept {
  if constexpr (has_cuda) return k::cuda_device_count();
  return 0;
}

void use_cpu_threads(int threads) {
  omp_set_num_threads(threads);
  k::keep_blas_to_one_thread();
}

std::string device_name(Device device) {
  if constexpr (has_cuda)
    if (device.kind == DeviceKind::cuda) return k::cuda_device_name(device.index);
  return fmt::format("cpu, {} thread{}", omp_get_max_threads(), omp_get_max_threads() == 1 ? "" : "s");
}

Device parse_device(std::string_view text) {
  if (text == "cpu") return {};
  if (text == "auto") {
    if constexpr (has_cuda)
      for (int i = 0; i < cuda_device_count(); i++)
        if (k::cuda_has_code_for(i)) return {DeviceKind::cuda, i};
    return {};
  }
  int index = 0;
  if (text.starts_with("cuda:")) {
    auto [stop, error] = std::from_chars(text.data() + 5, text.data() + text.size(), index);
    require(error == std::errc{} && stop == text.data() + text.size() && index >= 0, Exit::usage,
            "--device {}: expected auto, cpu, cuda or cuda:N", text);
  } else {
    require(text == "cuda", Exit::usage, "--device {}: expected auto, cpu, cuda or cuda:N", text);
  }
  if constexpr (!has_cuda)
    throw DeviceError(
        fmt::format("--device {}: this is a CPU build; build with make CUDA=1, or use --device cpu", text),
        Exit::gpu);
  const int cards = cuda_device_count();
  if (index >= cards)
    throw DeviceError(fmt::format("--device {}: {} found; use --device cpu", text,
                                  cards == 0 ? std::string("no CUDA card or driver")
                                             : fmt::format("{} card{}", cards, cards == 1 ? "" : "s")),
                      Exit::gpu);
  if constexpr (has_cuda)
    if (!k::cuda_has_code_for(index))
      throw DeviceError(
          fmt::format(
              "--device {0}: {1} is an sm_{2}, which this build has no code for; build with make CUDA=1 "
              "ARCH={2}, or use --device cpu",
              text, k::cuda_device_name(index), k::cuda_architecture(index)),
          Exit::gpu);
  return {DeviceKind::cuda, index};
}

bool has_fast_bf16(Device device) noexcept {
  if constexpr (has_cuda) return device.kind == DeviceKind::cuda && k::cuda_architecture(device.index) >= 80;
  return false;
}

double peak_flops(Device device) noexcept try {
  constexpr std::pair<std::string_view, double> kCards[] = {
      {"H100 PCIe", 756e12}, {"H100 NVL", 835e12}, {"H100", 989.4e12},
      {"H200", 989.4e12},    {"B200", 2250e12},    {"A100", 312e12},
      {"L40S", 362e12},      {"A10", 125e12},      {"RTX 4090", 165.2e12}};
  if (device.kind == DeviceKind::cpu) return 0;
  const std::string name = device_name(device);
  for (const auto& [part, flops] : kCards)
    if (name.find(part) != std::string::npos) return flops;
  return 0;
} catch (const std::exception&) {
  return 0;
}

std::shared_ptr<std::byte> allocate(Device device, std::size_t bytes) {
  bytes = std::max<std::size_t>(bytes, 1);
  const auto out_of = [&](const char* memory) {
    throw DeviceError(fmt::format("out of {}: {} MiB wanted; use a smaller --batch, --seq-len or model",
                                  memory, bytes >> 20),
                      Exit::memory);
  };
  if constexpr (has_cuda) {
    if (device.kind == DeviceKind::cuda) {
      void* at = nullptr;
      if (!k::cuda_allocate_zeroed(device.index, bytes, &at).ok()) out_of("GPU memory");
      return {static_cast<std::byte*>(at), [](std::byte* p) { k::cuda_free(p); }};
    }
  }
  // Pages come zeroed and cost nothing until they are touched; large ones spare the page table.
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) out_of("memory");
  if (bytes >= kLargePages) madvise(at, bytes, MADV_HUGEPAGE);
  return {static_cast<std::byte*>(at), [bytes](std::byte* p) { munmap(p, bytes); }};
}

std::shared_ptr<std::byte> allocate_staging(Device device, std::size_t bytes) {
  if constexpr (has_cuda) {
    if (device.kind == DeviceKind::cuda) {
      void* at = nullptr;
      if (!k::cuda_allocate_pinned(device.index, std::max<std::size_t>(bytes, 1), &at).ok())
        throw DeviceError(fmt::format("out of page-locked memory: {} MiB wanted", bytes >> 20), Exit::memory);
      return {static_cast<std::byte*>(at), [](std::byte* p) { k::cuda_free_pinned(p); }};
    }
  }
  return allocate({}, bytes);
}

std::uint64_t peak_memory(Device device) {
  if constexpr (has_cuda)
    if (device.kind == DeviceKind::cuda) return k::cuda_memory_in_use(device.index);
  std::ifstream status("/proc/self/status");
  std::uint64_t peak = 0, mapped = 0;
  for (std::string key, line; status >> key && std::getline(status, line);) {
    const auto kibibytes = [&line] { return std::strtoull(line.c_str(), nullptr, 10); };
    if (key == "VmHWM:") peak = kibibytes();
    if (key == "RssFile:" || key == "RssShmem:") mapped += kibibytes();
  }
  return (peak - std::min(peak, mapped)) << 10;
}

Stream::Stream(Device device) : device_(device) {
  if constexpr (has_cuda) {
    if (device.kind != DeviceKind::cuda) return;
    void* queue = nullptr;
    check(k::cuda_queue_create(device.index, &queue), "stream");
    queue_ = {queue, [](void* q) { k::cuda_queue_destroy(q); }};
  }
}

Stream Stream::beside(const Stream& first) {
  Stream made;
  made.device_ = first.device_;
  if constexpr (has_cuda) {
    if (!first.queue_) return made;
    void* queue = nullptr;
    check(k::cuda_queue_create_beside(first.queue_.get(), &queue), "stream");
    made.queue_ = {queue, [](void* q) { k::cuda_queue_destroy(q); }};
  }
  return made;
}

void Stream::follow(const Event& event) {
  if constexpr (has_cuda)
    if (queue_) check(k::cuda_queue_follow(queue_.get(), event.event_.get()), "follow");
}

void Stream::copy(void* to, const void* from, std::size_t bytes) {
  if (bytes == 0) return;
  if constexpr (has_cuda)
    if (queue_) return check(k::cuda_copy(queue_.get(), to, from, bytes), "copy");
  std::memcpy(to, from, bytes);
}

void Stream::fill(void* at, int byte, std::size_t bytes) {
  if (bytes == 0) return;
  if constexpr (has_cuda)
    if (queue_) return check(k::cuda_fill(queue_.get(), at, byte, bytes), "fill");
  std::memset(at, byte, bytes);
}

void Stream::wait() {
  if constexpr (has_cuda)
    if (queue_) check(k::cuda_queue_wait(queue_.get()), "wait");
}

Event::Event(Device device) {
  if constexpr (has_cuda) {
    if (device.kind != DeviceKind::cuda) return;
    void* event = nullptr;
    check(k::cuda_event_create(device.index, &event), "event");
    event_ = {event, [](void* e) { k::cuda_event_destroy(e); }};
  }
}

void Event::record(Stream& stream) {
  if constexpr (has_cuda)
    if (event_) return check(k::cuda_event_record(event_.get(), stream.handle()), "event");
  time_ = std::chrono::steady_clock::now();
}

void Event::wait() const {
  if constexpr (has_cuda)
    if (event_) check(k::cuda_event_wait(event_.get()), "wait");
}

double Event::seconds_since(const Event& earlier) const {
  if constexpr (has_cuda) {
    if (event_) {
      wait();
      double seconds = 0;
      check(k::cuda_event_seconds(earlier.event_.get(), event_.get(), &seconds), "time");
      return seconds;
    }
  }
  return std::chrono::duration<double>(time_ - earlier.time_).count();
}

void Graph::run(Stream& stream, const std::function<void()>& work) {
  if constexpr (has_cuda) {
    if (stream.device().kind == DeviceKind::cuda) {
      if (graph_) return check(k::cuda_replay(stream.handle(), graph_.get()), "graph");
      if (warm_) {
        check(k::cuda_record_begin(stream.handle()), "graph");
        void* graph = nullptr;
        try {
          work();
        } catch (...) {
          if (k::cuda_record_end(stream.handle(), &graph).ok()) k::cuda_graph_destroy(graph);
          throw;
        }
        check(k::cuda_record_end(stream.handle(), &graph), "graph");
        graph_ = {graph, [](void* g) { k::cuda_graph_destroy(g); }};
        return check(k::cuda_replay(stream.handle(), graph), "graph");
      }
      warm_ = true;
    }
  }
  work();
}

}  // namespace engine
