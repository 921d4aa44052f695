#include "data/bzip2_block.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace data {
namespace {

constexpr int kGroup = 50;  // symbols with the same table

using CrcTables = std::array<std::array<std::uint32_t, 256>, 8>;

// [0] is the usual table; [k] moves a byte on by k further bytes.
constexpr CrcTables kCrc = [] {
  CrcTables tables{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t c = i << 24;
    for (int bit = 0; bit < 8; ++bit) c = c << 1 ^ ((c >> 31) != 0 ? 0x04C11DB7u : 0u);
    tables[0][i] = c;
  }
  for (std::size_t k = 1; k < 8; ++k)
    for (std::uint32_t i = 0; i < 256; ++i) {
      const std::uint32_t before = tables[k - 1][i];
      tables[k][i] = before << 8 ^ tables[0][before >> 24];
    }
  return tables;
}();

std::uint32_t big_endian(const std::byte* bytes) {
  std::uint32_t word;
  std::memcpy(&word, bytes, 4);
  return __builtin_bswap32(word);
}

}  // namespace

void BitReader::seek(std::uint64_t bit) noexcept {
  next_ = bit / 8;
  bits_ = 0;
  held_ = 0;
  const int in_byte = static_cast<int>(bit % 8);
  if (in_byte > 0) take(in_byte);
}

void BitReader::fill() noexcept {
  if (next_ + 8 <= bytes_.size()) {
    // As many whole bytes as there is room for.
    std::uint64_t word;
    std::memcpy(&word, bytes_.data() + next_, 8);
    bits_ |= __builtin_bswap64(word) >> held_;
    const int bytes = (63 - held_) / 8;
    next_ += static_cast<std::uint64_t>(bytes);
    held_ += 8 * bytes;
    // Bits below the held ones came in too; they come again.
    bits_ &= ~std::uint64_t{0} << (64 - held_);
    return;
  }
  while (held_ <= 56) {
    const std::uint64_t byte = next_ < bytes_.size() ? static_cast<std::uint64_t>(bytes_[next_]) : 0;
    bits_ |= byte << (56 - held_);
    ++next_;
    held_ += 8;
  }
}

std::uint32_t bzip2_crc(std::uint32_t crc, std::span<const std::byte> bytes) noexcept {
  std::uint32_t c = ~crc;
  const std::byte* at = bytes.data();
  std::size_t left = bytes.size();
  for (; left >= 8; at += 8, left -= 8) {
    const std::uint32_t a = c ^ big_endian(at), b = big_endian(at + 4);
    c = kCrc[7][a >> 24] ^ kCrc[6][a >> 16 & 255] ^ kCrc[5][a >> 8 & 255] ^ kCrc[4][a & 255] ^
        kCrc[3][b >> 24] ^ kCrc[2][b >> 16 & 255] ^ kCrc[1][b >> 8 & 255] ^ kCrc[0][b & 255];
  }
  for (; left > 0; ++at, --left) c = c << 8 ^ kCrc[0][c >> 24 ^ static_cast<std::uint8_t>(*at)];
  return ~c;
}

std::size_t RunExpander::expand(std::span<std::byte> out) noexcept {
  std::size_t made = 0;
  for (;;) {
    if (left_ > 0) {
      const std::size_t count = std::min(left_, out.size() - made);
      std::memset(out.data() + made, last_, count);
      made += count;
      left_ -= count;
      if (left_ > 0) return made;
    }
    if (equal_ == 4 && !block_.empty()) {
      left_ = block_.front();
      equal_ = 0;
      block_ = block_.subspan(1);
      continue;
    }
    if (block_.empty() || made == out.size()) return made;
    const std::size_t most = std::min(block_.size(), out.size() - made);
    std::size_t i = 0;
    int equal = equal_;
    std::uint8_t last = last_;
    for (; i < most && equal < 4; ++i) {
      const std::uint8_t byte = block_[i];
      equal = equal > 0 && byte == last ? equal + 1 : 1;
      last = byte;
    }
    std::memcpy(out.data() + made, block_.data(), i);
    made += i;
    equal_ = equal;
    last_ = last;
    block_ = block_.subspan(i);
  }
}

// The bytes that occur, the tables' lengths, and which table each group of symbols has.
Bzip2Result Bzip2BlockDecoder::read_tables(BitReader& bits) {
  int bytes = 0;
  const std::uint32_t ranges = bits.take(16);
  for (int range = 0; range < 16; ++range) {
    if ((ranges >> (15 - range) & 1) == 0) continue;
    const std::uint32_t used = bits.take(16);
    for (int i = 0; i < 16; ++i)
      if ((used >> (15 - i) & 1) != 0) alphabet_[bytes++] = static_cast<std::uint8_t>(16 * range + i);
  }
  if (bits.passed_end()) return Bzip2Result::cut;
  if (bytes == 0) return Bzip2Result::damaged;
  symbols_ = bytes + 2;  // two digits of a run instead of the first byte, and the end
  tables_used_ = static_cast<int>(bits.take(3));
  const std::uint32_t selectors = bits.take(15);
  if (bits.passed_end()) return Bzip2Result::cut;
  if (tables_used_ < 2 || tables_used_ > kMostTables || selectors == 0) return Bzip2Result::damaged;
  selectors_.resize(selectors);
  std::uint8_t order[kMostTables] = {0, 1, 2, 3, 4, 5};
  for (std::uint8_t& selector : selectors_) {
    int place = 0;
    while (bits.take(1) == 1)
      if (++place == tables_used_) return Bzip2Result::damaged;
    std::rotate(order, order + place, order + place + 1);
    selector = order[0];
  }
  for (int t = 0; t < tables_used_; ++t) {
    std::uint8_t lengths[kMostSymbols];
    int length = static_cast<int>(bits.take(5));
    for (int i = 0; i < symbols_; ++i) {
      for (;;) {
        if (length < 1 || length > kMostLength) return Bzip2Result::damaged;
        if (bits.take(1) == 0) break;
        length += bits.take(1) == 0 ? 1 : -1;
      }
      lengths[i] = static_cast<std::uint8_t>(length);
    }
    if (bits.passed_end()) return Bzip2Result::cut;
    if (!make_table(lengths, tables_[t])) return Bzip2Result::damaged;
  }
  return Bzip2Result::ok;
}

// False if more codes are asked for than there are.
bool Bzip2BlockDecoder::make_table(const std::uint8_t* lengths, Table& table) const {
  std::uint32_t code = 0;  // of kMostLength bits
  int index = 0;
  std::memset(table.fast, 0, sizeof(table.fast));
  for (int length = 1; length <= kMostLength; ++length) {
    const std::uint32_t step = 1u << (kMostLength - length);
    table.offset[length] = index - static_cast<std::int32_t>(code >> (kMostLength - length));
    for (int symbol = 0; symbol < symbols_; ++symbol) {
      if (lengths[symbol] != length) continue;
      if (code + step > 1u << kMostLength) return false;
      table.symbols[index++] = static_cast<std::uint16_t>(symbol);
      if (length <= kFastBits)
        std::fill_n(table.fast + (code >> (kMostLength - kFastBits)), 1 << (kFastBits - length),
                    static_cast<std::uint16_t>(symbol << 5 | length));
      code += step;
    }
    table.limit[length] = code;
  }
  return true;
}

Bzip2Result Bzip2BlockDecoder::read_symbols(BitReader& bits) {
  const int end = symbols_ - 1;
  std::fill(std::begin(counts_), std::end(counts_), 0);
  std::uint8_t order[256];
  std::copy_n(alphabet_, symbols_ - 2, order);
  std::uint32_t* out = links_.get();
  std::uint32_t* const last = out + kBzip2MostBytes;
  std::size_t run = 0, digit = 1;
  const auto write_run = [&] {
    if (run > static_cast<std::size_t>(last - out)) return false;
    counts_[order[0]] += static_cast<std::uint32_t>(run);
    out = std::fill_n(out, run, order[0]);
    run = 0;
    digit = 1;
    return true;
  };
  for (const std::uint8_t selector : selectors_) {
    const Table& table = tables_[selector];
    for (int i = 0; i < kGroup; ++i) {
      const std::uint32_t code = bits.peek(kMostLength);
      int symbol = table.fast[code >> (kMostLength - kFastBits)];
      if (symbol != 0) [[likely]] {
        bits.skip(symbol & 31);
        symbol >>= 5;
      } else {
        int length = kFastBits + 1;
        while (length <= kMostLength && code >= table.limit[length]) ++length;
        if (length > kMostLength) return Bzip2Result::damaged;
        symbol =
            table.symbols[table.offset[length] + static_cast<std::int32_t>(code >> (kMostLength - length))];
        bits.skip(length);
      }
      if (symbol <= 1) {  // digits 1 and 2 of a number to the base 2
        if (digit > kBzip2MostBytes) return Bzip2Result::damaged;
        run += digit << symbol;
        digit <<= 1;
        continue;
      }
      if (run > 0 && !write_run()) return Bzip2Result::damaged;
      if (symbol == end) {
        size_ = static_cast<std::size_t>(out - links_.get());
        return bits.passed_end() ? Bzip2Result::cut : Bzip2Result::ok;
      }
      if (out == last) return Bzip2Result::damaged;
      const int place = symbol - 1;
      const std::uint8_t byte = order[place];
      if (place < 16) {
        for (int k = place; k > 0; --k) order[k] = order[k - 1];
      } else {
        std::memmove(order + 1, order, static_cast<std::size_t>(place));
      }
      order[0] = byte;
      ++counts_[byte];
      *out++ = byte;
    }
    if (bits.passed_end()) return Bzip2Result::cut;
  }
  return Bzip2Result::damaged;
}

// Inverse Burrows-Wheeler transform. An element holds a byte, and above it where the next one stands (links_)
// or the one before (back_): the text is walked through from both of its ends, since a walk waits for memory
// at each step.
bool Bzip2BlockDecoder::invert(std::uint32_t origin, std::vector<std::uint8_t>& block) {
  if (origin >= size_) return false;
  std::uint32_t sum = 0;
  for (std::uint32_t& count : counts_) count = std::exchange(sum, sum + count);
  for (std::uint32_t i = 0; i < size_; ++i) {
    const std::uint32_t byte = links_[i] & 0xFF, to = counts_[byte]++;
    back_[i] = to << 8 | byte;
    links_[to] |= i << 8;
  }
  block.resize(size_);
  std::uint8_t *front = block.data(), *end = front + size_;
  std::uint32_t forward = links_[origin] >> 8, backward = origin;
  while (end - front > 1) {
    const std::uint32_t next = links_[forward], before = back_[backward];
    *front++ = static_cast<std::uint8_t>(next);
    *--end = static_cast<std::uint8_t>(before);
    forward = next >> 8;
    backward = before >> 8;
  }
  if (front != end) *front = static_cast<std::uint8_t>(links_[forward]);
  return true;
}

Bzip2Result Bzip2BlockDecoder::decode(BitReader& bits, std::vector<std::uint8_t>& block, std::uint32_t* crc) {
  *crc = bits.take(32);
  const bool randomised = bits.take(1) == 1;
  const std::uint32_t origin = bits.take(24);
  if (bits.passed_end()) return Bzip2Result::cut;
  if (randomised) return Bzip2Result::randomised;
  Bzip2Result result = read_tables(bits);
  if (result == Bzip2Result::ok) result = read_symbols(bits);
  if (result != Bzip2Result::ok)
    return bits.passed_end() ? Bzip2Result::cut : result;  // zeros may have misled it
  return invert(origin, block) ? Bzip2Result::ok : Bzip2Result::damaged;
}

}  // namespace data
