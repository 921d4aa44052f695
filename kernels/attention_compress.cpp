#include <cblas.h>
#include <omp.h>

#include "kernels/attention.h"
#include "kernels/attention_cpu.h"

// BLAS runs inside the parallel loops, where it takes one thread for itself: the same bits for any number of
// threads.
namespace k {
namespace {

// rows[w, d * block + j] = x[w * block + j, d] + place[j, d]: the order of the weight's columns
void gather(const float* x, const float* place, float* rows, std::int64_t blocks, std::int64_t dim,
            std::int64_t block) {
  for (std::int64_t w = 0; w < blocks; w++)
    for (std::int64_t j = 0; j < block; j++)
      for (std::int64_t d = 0; d < dim; d++)
        rows[(w * dim + d) * block + j] = x[(w * block + j) * dim + d] + place[j * dim + d];
}

// x[j, d] += row[d * block + j]
void add_transposed(const float* row, float* x, std::int64_t dim, std::int64_t block) {
  for (std::int64_t j = 0; j < block; j++)
    for (std::int64_t d = 0; d < dim; d++) x[j * dim + d] += row[d * block + j];
}

template <class P> bool fits_blas(const P& p) {
  constexpr std::int64_t kLimit = std::numeric_limits<blasint>::max();
  return p.dim <= kLimit / p.block && p.length / p.block <= kLimit;
}

// OpenBLAS aborts when more threads than it was built for ask for its buffers.
int callers() { return std::min(omp_get_max_threads(), 64); }

constexpr Status kTooLarge{1, "a compressed block has too many elements"};

}  // namespace

Status run(Cpu, const CompressForward& p) noexcept {
  if (!all_f32(p.y.t, p.x.t, p.weight.t, p.bias.t, p.place.t)) return unsupported_dtype();
  if (!fits_blas(p)) return kTooLarge;
  std::int64_t blocks = p.length / p.block, width = p.dim * p.block;
  if (blocks == 0) return {};
#pragma omp parallel for schedule(static) num_threads(callers())
  for (std::int64_t unit = 0; unit < p.batch * p.kv_heads; unit++) {
    std::int64_t h = unit % p.kv_heads;
    float *rows = p.gathered + unit * blocks * width, *y = f32(p.y) + unit * blocks * p.dim;
    gather(f32(p.x) + unit * p.length * p.dim, f32(p.place) + h * width, rows, blocks, p.dim, p.block);
    for (std::int64_t w = 0; w < blocks; w++) std::copy_n(f32(p.bias) + h * p.dim, p.dim, y + w * p.dim);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, blasint(blocks), blasint(p.dim), blasint(width), 1,
                rows, blasint(width), f32(p.weight) + h * p.dim * width, blasint(width), 1, y,
                blasint(p.dim));
  }
  return {};
}

Status run(Cpu, const CompressBackward& p) noexcept {
  if (!all_f32(p.dx.t, p.dweight.t, p.dbias.t, p.dplace.t, p.dy.t, p.x.t, p.weight.t, p.place.t))
    return unsupported_dtype();
  if (!fits_blas(p)) return kTooLarge;
  std::int64_t blocks = p.length / p.block, width = p.dim * p.block, matrix = p.length * p.dim;
#pragma omp parallel for schedule(static) num_threads(callers())
  for (std::int64_t unit = 0; unit < p.batch * p.kv_heads; unit++) {
    std::int64_t h = unit % p.kv_heads;
    float* dx = accumulator(p.dx, unit * matrix, matrix);
    if (blocks == 0) continue;
    if (p.dweight.p)
      gather(f32(p.x) + unit * matrix, f32(p.place) + h * width, p.gathered + unit * blocks * width, blocks,
             p.dim, p.block);
    if (!dx && !p.dplace.p) continue;
    float* drows = p.dgathered + unit * blocks * width;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, blasint(blocks), blasint(width), blasint(p.dim), 1,
                f32(p.dy) + unit * blocks * p.dim, blasint(p.dim), f32(p.weight) + h * p.dim * width,
                blasint(width), 0, drows, blasint(width));
    for (std::int64_t w = 0; dx && w < blocks; w++)
      add_transposed(drows + w * width, dx + w * width, p.dim, p.block);
  }
  // Sums over the batch: a head at a time, in order.
#pragma omp parallel for schedule(static) num_threads(callers())
  for (std::int64_t h = 0; h < p.kv_heads; h++) {
    float* dweight = accumulator(p.dweight, h * p.dim * width, p.dim * width);
    float* dbias = accumulator(p.dbias, h * p.dim, p.dim);
    float* dplace = accumulator(p.dplace, h * width, width);
    for (std::int64_t unit = h; blocks > 0 && unit < p.batch * p.kv_heads; unit += p.kv_heads) {
      const float* dy = f32(p.dy) + unit * blocks * p.dim;
      if (dweight)
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, blasint(p.dim), blasint(width), blasint(blocks),
                    1, dy, blasint(p.dim), p.gathered + unit * blocks * width, blasint(width), 1, dweight,
                    blasint(width));
      for (std::int64_t w = 0; dbias && w < blocks; w++) add_scaled(1, dy + w * p.dim, dbias, p.dim);
      for (std::int64_t w = 0; dplace && w < blocks; w++)
        add_transposed(p.dgathered + (unit * blocks + w) * width, dplace, p.dim, p.block);
    }
  }
  return {};
}

Status run(Cpu, const CompressPairForward& p) noexcept {
  const Status status = run(Cpu{}, p.keys);
  return status.ok() ? run(Cpu{}, p.values) : status;
}
Status run(Cpu, const CompressPairBackward& p) noexcept {
  const Status status = run(Cpu{}, p.keys);
  return status.ok() ? run(Cpu{}, p.values) : status;
}

}  // namespace k
