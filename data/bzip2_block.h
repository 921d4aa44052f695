// One block of bzip2 data, decoded apart from the others: libbz2 takes a stream from its beginning only and
// does not tell where a block ends, so it can decode neither several blocks at a time nor find the next one.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace data {

// Bits of a span of bytes, from the highest of each byte on.
class BitReader {
 public:
  BitReader(std::span<const std::byte> bytes, std::uint64_t first_bit) : bytes_(bytes) { seek(first_bit); }

  // The next `count` <= 32 bits; zeros behind the end.
  std::uint32_t peek(int count) noexcept {
    if (held_ < count) fill();
    return static_cast<std::uint32_t>(bits_ >> 1 >> (63 - count));
  }
  // Moves on by `count` <= 32 bits that were peeked.
  void skip(int count) noexcept {
    bits_ <<= count;
    held_ -= count;
  }
  std::uint32_t take(int count) noexcept {
    const std::uint32_t bits = peek(count);
    skip(count);
    return bits;
  }
  std::uint64_t take48() noexcept {
    const std::uint64_t high = take(24);
    return high << 24 | take(24);
  }

  std::uint64_t position() const noexcept {
    return 8 * next_ - static_cast<std::uint64_t>(held_);
  }  // in bits
  void seek(std::uint64_t bit) noexcept;
  bool passed_end() const noexcept { return position() > 8 * bytes_.size(); }

 private:
  void fill() noexcept;

  std::span<const std::byte> bytes_;
  std::uint64_t next_ = 0;  // byte that comes into bits_ next; goes on behind the end
  std::uint64_t bits_ = 0;  // the highest held_ of them
  int held_ = 0;
};

inline constexpr std::uint64_t kBzip2Block = 0x314159265359, kBzip2End = 0x177245385090;  // 48 bits, of pi
inline constexpr std::size_t kBzip2MostBytes = 900'000;  // of a block before its runs are expanded
// More bits than a block can take: a code of 20 bits for each byte, and the tables.
inline constexpr std::size_t kBzip2MostPacked = 2'500'000;

// Expands the runs of a block: four equal bytes are followed by the number of further ones.
class RunExpander {
 public:
  void start(std::span<const std::uint8_t> block) noexcept {
    block_ = block;
    equal_ = 0;
    left_ = 0;
  }
  // Fills the beginning of `out` and returns how much; 0 only at the end of the block.
  std::size_t expand(std::span<std::byte> out) noexcept;

 private:
  std::span<const std::uint8_t> block_;
  int equal_ = 0;  // of the last bytes, at most 4
  std::uint8_t last_ = 0;
  std::size_t left_ = 0;  // further copies of the last byte
};

// bzip2's CRC-32, which takes the highest bit first. `crc`: 0 at first, or a result.
std::uint32_t bzip2_crc(std::uint32_t crc, std::span<const std::byte> bytes) noexcept;

enum class Bzip2Result : std::uint8_t { ok, cut, damaged, randomised };

// Memory for decoding, used again and again.
class Bzip2BlockDecoder {
 public:
  // Decodes the block that follows kBzip2Block in `bits`, which then stand behind it, into `block`, whose
  // runs are not expanded. cut: the bits end first. randomised: written by bzip2 0.9.0 or earlier, which is
  // not read.
  Bzip2Result decode(BitReader& bits, std::vector<std::uint8_t>& block, std::uint32_t* crc);

 private:
  static constexpr int kMostTables = 6, kMostSymbols = 258, kMostLength = 20, kFastBits = 11;
  struct Table {
    std::uint16_t fast[1 << kFastBits];    // symbol << 5 | length; 0: longer, or no code
    std::uint32_t limit[kMostLength + 2];  // by length: first code that is longer, as 20 bits
    std::int32_t offset[kMostLength + 2];  // by length: from a code to its index in `symbols`
    std::uint16_t symbols[kMostSymbols];
  };

  Bzip2Result read_tables(BitReader& bits);
  bool make_table(const std::uint8_t* lengths, Table& table) const;
  Bzip2Result read_symbols(BitReader& bits);
  bool invert(std::uint32_t origin, std::vector<std::uint8_t>& block);

  int symbols_ = 0, tables_used_ = 0;
  std::uint8_t alphabet_[256];
  std::vector<std::uint8_t> selectors_;
  Table tables_[kMostTables];
  // [kBzip2MostBytes], of which a block writes as many as it has before it reads them: a short one touches no
  // more memory than that.
  std::unique_ptr<std::uint32_t[]> links_ = std::make_unique_for_overwrite<std::uint32_t[]>(kBzip2MostBytes),
                                   back_ = std::make_unique_for_overwrite<std::uint32_t[]>(kBzip2MostBytes);
  std::size_t size_ = 0;       // of the block
  std::uint32_t counts_[256];  // of each byte in it
};

}  // namespace data
