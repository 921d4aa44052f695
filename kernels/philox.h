// Counter-based random bits (Philox4x32-10, Salmon et al. 2011): a pure function of key and counter, the same
// on every device and for any order of evaluation.
#pragma once
#include <array>
#include <cstdint>

#ifdef __CUDACC__
#define PHILOX_ANYWHERE __host__ __device__
#else
#define PHILOX_ANYWHERE
#endif

namespace k {

struct Philox {
  std::uint32_t word[4];
};

PHILOX_ANYWHERE inline Philox philox(std::uint64_t key, std::uint64_t stream, std::uint64_t index) {
  std::uint32_t k0 = std::uint32_t(key), k1 = std::uint32_t(key >> 32);
  std::uint32_t c[4] = {std::uint32_t(index), std::uint32_t(index >> 32), std::uint32_t(stream),
                        std::uint32_t(stream >> 32)};
  for (int round = 0; round < 10; round++) {
    std::uint64_t a = std::uint64_t(0xD2511F53u) * c[0], b = std::uint64_t(0xCD9E8D57u) * c[2];
    std::uint32_t x = std::uint32_t(b >> 32) ^ c[1] ^ k0, z = std::uint32_t(a >> 32) ^ c[3] ^ k1;
    c[0] = x, c[1] = std::uint32_t(b), c[2] = z, c[3] = std::uint32_t(a);
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{c[0], c[1], c[2], c[3]}};
}

}  // namespace k

#undef PHILOX_ANYWHERE
