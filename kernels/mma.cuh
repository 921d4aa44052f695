// A warp's tensor-core product, and how its operands come from shared memory. sm_80 and newer; .cu files
// only.
//
// d[16, 8] += a[16, 16] b[16, 8], bf16 operands, fp32 sums (PTX mma.m16n8k16). Lane l holds, with row = l / 4
// and pair = 2 (l % 4):
//   a.x[0], a.x[1], a.x[2], a.x[3]: a[row][pair..], a[row + 8][pair..], a[row][pair + 8..], a[row + 8][pair
//   + 8..] b.x[0], b.x[1]: b[pair, pair + 1][row], b[pair + 8, pair + 9][row] d.x[0..1]: d[row][pair, pair +
//   1]; d.x[2..3]: d[row + 8][pair, pair + 1]
// The d of two neighbouring 8-column products, packed to bf16, is the a of a product over those 16 columns.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

namespace k::mma {

struct A {
  std::uint32_t x[4];
};
struct B {
  std::uint32_t x[2];
};
struct D {
  float x[4] = {0, 0, 0, 0};
};

__device__ inline void multiply_add(D& d, const A& a, const B& b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d.x[0]), "+f"(d.x[1]), "+f"(d.x[2]), "+f"(d.x[3])
      : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b.x[0]), "r"(b.x[1]));
}

// Two fp32 values as one register of bf16, `low` in the lower half.
__device__ inline std::uint32_t pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(both);
}
// The products of columns 0..7 and 8..15 as the left operand of the next product.
__device__ inline A as_left(const D& first, const D& second) {
  return {pack(first.x[0], first.x[1]), pack(first.x[2], first.x[3]), pack(second.x[0], second.x[1]),
          pack(second.x[2], second.x[3])};
}

__device__ inline std::uint32_t shared_address(const void* at) {
  return std::uint32_t(__cvta_generic_to_shared(at));
}

// Four 8 x 8 matrices of bf16 from shared memory; lane l names the row l % 8 (16 bytes, aligned) of matrix
// l / 8. Register i holds, in lane l, elements [l / 4][2 (l % 4), + 1] of matrix i; transposed, elements
// [2 (l % 4), + 1][l / 4].
__device__ inline void load_matrices(std::uint32_t (&x)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void load_matrices_transposed(std::uint32_t (&x)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(shared_address(row))
               : "memory");
}

// The operands of a product from matrices in shared memory whose rows lie `stride` elements apart; `at` is
// the first element that takes part. Rows 8 apart in 16 bytes must fall into different banks: a stride of 8 +
// a multiple of 16 or so does that. Left: 16 rows x 16 steps of the depth; the row of a `_transposed` one is
// a step of the depth.
__device__ inline A left(const __nv_bfloat16* at, int stride) {
  const int lane = int(threadIdx.x) % 32;
  A a;
  load_matrices(a.x, at + lane % 16 * stride + lane / 16 * 8);
  return a;
}
__device__ inline A left_transposed(const __nv_bfloat16* at, int stride) {
  const int lane = int(threadIdx.x) % 32;
  A a;
  load_matrices_transposed(a.x, at + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
  return a;
}
// Right, for two neighbouring products of 8 columns each: a row is a column of the products, and runs along
// the depth; the row of a `_transposed` one is a step of the depth.
__device__ inline void right(B (&b)[2], const __nv_bfloat16* at, int stride) {
  const int lane = int(threadIdx.x) % 32;
  std::uint32_t x[4];
  load_matrices(x, at + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
  b[0] = {x[0], x[1]};
  b[1] = {x[2], x[3]};
}
__device__ inline void right_transposed(B (&b)[2], const __nv_bfloat16* at, int stride) {
  const int lane = int(threadIdx.x) % 32;
  std::uint32_t x[4];
  load_matrices_transposed(x, at + (lane / 8 % 2 * 8 + lane % 8) * stride + lane / 16 * 8);
  b[0] = {x[0], x[1]};
  b[1] = {x[2], x[3]};
}

// An 8 x 8 matrix held as a register of load_matrices, transposed.
__device__ inline std::uint32_t transpose(std::uint32_t x) {
  std::uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}
// The left operand a of a product, transposed.
__device__ inline A transpose(const A& a) {
  return {transpose(a.x[0]), transpose(a.x[2]), transpose(a.x[1]), transpose(a.x[3])};
}

// 16 bytes from global to shared memory, in the background; zeros where `valid` is false (`from` must still
// be a valid address). A group ends at copy_commit(); copy_wait<n>() waits until at most n groups are under
// way for this thread. A barrier makes them visible to the other threads.
__device__ inline void copy_async(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ inline void copy_async(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int groups> __device__ inline void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

}  // namespace k::mma
