#include <algorithm>
#include <cmath>
#include <limits>

#include "data/token_file.h"

namespace data {
namespace {

constexpr std::uint64_t kNone = std::numeric_limits<std::uint64_t>::max();
constexpr std::size_t kCopyBytes = 1 << 20;  // also the span of one CRC
constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15;

std::uint64_t mixed(std::uint64_t x) noexcept {  // the finalizer of splitmix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

std::uint64_t share_of(std::uint64_t count, double share) {
  return std::min(count, static_cast<std::uint64_t>(std::floor(static_cast<double>(count) * share)));
}

}  // namespace

SplitHash::SplitHash(std::uint64_t seed) noexcept : state_(mixed(seed + kGolden) ^ 0xcbf29ce484222325) {}

void SplitHash::update(std::string_view key) noexcept {
  for (const char c : key) state_ = (state_ ^ static_cast<unsigned char>(c)) * 0x100000001b3;  // FNV-1a
}

std::uint64_t SplitHash::value() const noexcept { return mixed(state_); }

struct TokenFileWriter::Plan {
  TokenFileSummary summary;
  std::uint64_t below = 0;          // hash rule: smaller hashes are validation
  std::uint64_t tail_from = kNone;  // tail rule: this piece and all later ones are validation
  std::uint64_t exception = kNone;  // the one piece that the rule would have put on the other side

  bool is_validation(std::uint64_t index, const Piece& piece) const {
    return (index >= tail_from || piece.hash < below) != (index == exception);
  }
};

void TokenFileWriter::Checksums::add(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const std::size_t room = kCopyBytes - position_ % kCopyBytes;
    if (room == kCopyBytes) crcs_.push_back(0);
    const auto part = bytes.first(std::min(bytes.size(), room));
    crcs_.back() = engine::crc32_of(part, crcs_.back());
    position_ += part.size();
    bytes = bytes.subspan(part.size());
  }
}

void TokenFileWriter::Checksums::go_back() {
  position_ = marked_;
  crcs_.resize((position_ + kCopyBytes - 1) / kCopyBytes);
  if (!crcs_.empty()) crcs_.back() = marked_crc_;
}

TokenFileWriter::TokenFileWriter(std::filesystem::path path, const Tokenizer& tokenizer, bool raw,
                                 const Split& split, std::function<void()> poll)
    : path_(std::move(path)),
      tokenizer_(tokenizer),
      raw_(raw),
      split_(split),
      below_(raw || split.rule != Split::Rule::hash
                 ? 0
                 : static_cast<std::uint64_t>(std::ldexp(std::max(split.share, 0.0), 64))),
      poll_(std::move(poll)),
      vocab_size_(tokenizer.size()),
      width_(vocab_size_ <= 65536 ? 2 : 4),
      tokens_(path_.parent_path()),
      pieces_(path_.parent_path()) {
  engine::require(tokenizer.end_of_text() < vocab_size_, engine::Exit::checkpoint,
                  "the vocabulary has no {}, which ends every document; add it to the vocabulary",
                  tokenizer.words() == WordRule::gpt2 ? "<|endoftext|>" : "[SEP]");
}

void TokenFileWriter::add(std::span<const std::uint32_t> ids, std::uint64_t text_bytes) {
  std::uint32_t greatest = 0;  // one check for all, which the compiler can vectorise
  for (const std::uint32_t id : ids) greatest = std::max(greatest, id);
  engine::require(greatest < vocab_size_, engine::Exit::data,
                  "{}: the tokenizer made id {} of a vocabulary of {}", path_.string(), greatest,
                  vocab_size_);
  if (width_ == 2) narrowed_.assign(ids.begin(), ids.end());
  const auto bytes = width_ == 2 ? std::as_bytes(std::span(narrowed_)) : std::as_bytes(ids);
  tokens_.append(bytes);
  checksums_.add(bytes);
  piece_.tokens += ids.size();
  piece_.text_bytes += text_bytes;
  if (raw_) record();
}

void TokenFileWriter::end_document(std::uint64_t hash) {
  const std::uint32_t end = tokenizer_.end_of_text();
  add({&end, 1}, 0);
  end_document_as_it_is(hash);
}

void TokenFileWriter::end_document_as_it_is(std::uint64_t hash) {
  piece_.hash = hash;
  record();
}

void TokenFileWriter::abandon_document() {
  tokens_.truncate(tokens_.size() - piece_.tokens * width_);
  checksums_.go_back();
  piece_ = {};
}

void TokenFileWriter::record() {
  if (piece_.hash < below_) checksums_.go_back();
  else checksums_.mark();
  pieces_.append(std::as_bytes(std::span(&piece_, 1)));
  ++piece_count_;
  piece_ = {};
}

void TokenFileWriter::for_each_piece(const std::function<void(std::uint64_t, const Piece&)>& use) const {
  std::vector<Piece> some(kCopyBytes / sizeof(Piece));
  for (std::uint64_t index = 0; index < piece_count_;) {
    if (poll_) poll_();
    const auto pieces = std::span(some).first(std::min<std::uint64_t>(some.size(), piece_count_ - index));
    pieces_.read(index * sizeof(Piece), std::as_writable_bytes(pieces));
    for (const Piece& piece : pieces) use(index++, piece);
  }
}

// docs/reference.md, prepare: "--split tail". A raw stream, or a single document, is cut inside.
void TokenFileWriter::plan_tail(Plan& plan) const {
  TokenFileSummary& s = plan.summary;
  const std::uint64_t cut = s.tokens - share_of(s.tokens, split_.share);
  if (cut == s.tokens) return;
  const bool inside = s.documents < 2;
  if (inside) s.validation_from = cut;
  std::uint64_t start = 0, train_bytes = 0;
  for_each_piece([&](std::uint64_t index, const Piece& piece) {
    if (!inside && plan.tail_from == kNone && index > 0 && (start >= cut || index + 1 == piece_count_)) {
      plan.tail_from = index;
      s.validation_from = start;
      s.validation_documents = piece_count_ - index;
    }
    const std::uint64_t before =
        s.validation_from <= start ? 0
                                   : std::min(piece.tokens, s.validation_from - start);  // tokens in training
    if (before == piece.tokens) train_bytes += piece.text_bytes;
    else if (before > 0)
      train_bytes +=
          static_cast<std::uint64_t>(static_cast<double>(piece.text_bytes) * static_cast<double>(before) /
                                     static_cast<double>(piece.tokens));
    start += piece.tokens;
  });
  s.text_bytes_validation = s.text_bytes_train - train_bytes;
  s.text_bytes_train = train_bytes;
}

void TokenFileWriter::plan_hash(Plan& plan) const {
  TokenFileSummary& s = plan.summary;
  plan.below = below_;
  std::uint64_t least = 0, greatest = 0, least_hash = kNone, greatest_hash = 0, count = 0;
  for_each_piece([&](std::uint64_t index, const Piece& piece) {
    if (piece.hash < least_hash || index == 0) least = index, least_hash = piece.hash;
    if (piece.hash > greatest_hash || index == 0) greatest = index, greatest_hash = piece.hash;
    count += piece.hash < plan.below;
  });
  if (count == 0) plan.exception = least, count = 1;
  if (count == piece_count_) plan.exception = greatest, --count;
  s.validation_documents = count;
  for_each_piece([&](std::uint64_t index, const Piece& piece) {
    if (!plan.is_validation(index, piece)) return;
    s.validation_from -= piece.tokens;
    s.text_bytes_train -= piece.text_bytes;
    s.text_bytes_validation += piece.text_bytes;
  });
}

TokenFileWriter::Plan TokenFileWriter::plan() const {
  Plan plan;
  TokenFileSummary& s = plan.summary;
  for_each_piece([&](std::uint64_t, const Piece& piece) {
    s.tokens += piece.tokens;
    s.text_bytes_train += piece.text_bytes;
  });
  s.documents = raw_ ? 1 : piece_count_;
  s.validation_from = s.tokens;
  if (split_.share <= 0) return plan;
  s.tail_instead_of_hash = split_.rule == Split::Rule::hash && s.documents < 2;
  if (split_.rule == Split::Rule::tail || s.tail_instead_of_hash) plan_tail(plan);
  else plan_hash(plan);
  return plan;
}

void TokenFileWriter::copy_documents(const Plan& plan, const engine::ContainerWriter::Sink& sink) const {
  std::vector<std::uint64_t> starts;
  std::uint64_t start = 0;
  const auto put = [&](std::uint64_t value) {
    starts.push_back(value);
    if (starts.size() < kCopyBytes / sizeof(value)) return;
    sink(std::as_bytes(std::span(starts)));
    starts.clear();
  };
  if (raw_) put(0);
  for (const bool validation : {false, true}) {
    if (raw_) break;
    for_each_piece([&](std::uint64_t index, const Piece& piece) {
      if (plan.is_validation(index, piece) != validation) return;
      put(start);
      start += piece.tokens;
    });
  }
  put(plan.summary.tokens);
  sink(std::as_bytes(std::span(starts)));
}

void TokenFileWriter::copy_tokens(const Plan& plan, bool validation,
                                  const engine::ContainerWriter::Sink& sink) const {
  std::vector<std::byte> buffer(kCopyBytes);
  const auto copy = [&](std::uint64_t from, std::uint64_t to) {  // bytes of the spool
    for (; from < to; from += std::min<std::uint64_t>(buffer.size(), to - from)) {
      const auto bytes = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), to - from));
      tokens_.read(from, bytes);
      sink(bytes);
    }
  };
  std::uint64_t run = 0, end = 0;  // neighbours are copied together
  for_each_piece([&](std::uint64_t index, const Piece& piece) {
    const std::uint64_t start = end;
    end += piece.tokens * width_;
    if (plan.is_validation(index, piece) == validation) return;
    copy(run, start);
    run = end;
  });
  copy(run, end);
}

// Where the training part is what checksums_ took it to be, only what it left out is read once more.
std::vector<std::uint32_t> TokenFileWriter::checksums(const Plan& plan) {
  const bool foreseen = plan.below == below_ && plan.exception == kNone;
  if (!foreseen) checksums_ = {};
  for (const bool validation : {false, true}) {
    if (foreseen && (!validation || below_ == 0)) continue;
    copy_tokens(plan, validation, [&](std::span<const std::byte> bytes) { checksums_.add(bytes); });
  }
  return {checksums_.crcs().begin(), checksums_.crcs().end()};
}

TokenFileSummary TokenFileWriter::finish(const TokenFileNotes& notes) {
  abandon_document();
  tokens_.flush();
  pieces_.flush();
  const Plan plan = this->plan();
  const TokenFileSummary& s = plan.summary;
  engine::require(s.tokens > 0, engine::Exit::data,
                  "{}: the input holds no text that makes a token, nothing written", path_.string());

  const std::vector<std::uint32_t> crcs = checksums(plan);
  const std::string payload = tokenizer_.serialize();
  engine::ContainerWriter out;
  out.add("tokens", width_ == 2 ? engine::FileType::u16 : engine::FileType::u32, {s.tokens},
          [&](const engine::ContainerWriter::Sink& sink) {
            for (const bool validation : {false, true}) copy_tokens(plan, validation, sink);
          });
  out.add("documents", engine::FileType::u64, {s.documents + 1},
          [&](const engine::ContainerWriter::Sink& sink) { copy_documents(plan, sink); });
  out.add("tokenizer", engine::FileType::u8, {payload.size()}, std::as_bytes(std::span(payload)));
  out.add("tokens_crc32", engine::FileType::u32, {crcs.size()}, std::as_bytes(std::span(crcs)));
  out.set("format", "nsa-tokens/1");
  out.set("tokenizer", std::string(tokenizer_.kind()));
  out.set("vocab_size", std::to_string(tokenizer_.size()));
  out.set("vocab_sha256", tokenizer_.vocab_sha256());
  out.set("end_of_text", std::to_string(tokenizer_.end_of_text()));
  out.set("validation_from", std::to_string(s.validation_from));
  out.set("text_bytes_train", std::to_string(s.text_bytes_train));
  out.set("text_bytes_validation", std::to_string(s.text_bytes_validation));
  out.set("t2s", notes.t2s);
  out.set("opencc_version", notes.opencc_version);
  out.set("unicode_version", notes.unicode_version);
  out.set("source", notes.source);
  out.set("counts", notes.counts);
  out.set("made_by", notes.made_by);
  out.save(path_);
  return s;
}

}  // namespace data
