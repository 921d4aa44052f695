#include "tools/bench_data.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>

#include "data/bpe_trainer.h"
#include "data/char_vocab.h"
#include "data/document_reader.h"
#include "data/input.h"
#include "data/interrupt.h"
#include "data/prepare.h"
#include "data/t2s.h"
#include "data/utf8.h"
#include "data/wordpiece.h"
#include "engine/durable_file.h"
#include "engine/error.h"
#include "tools/bench_pages.h"
#include "tools/bench_rate.h"
#include "tools/bench_text.h"
#include "tools/console.h"

namespace tools {
namespace {

namespace fs = std::filesystem;
using engine::Exit;
using engine::require;

constexpr std::size_t kPieceBytes = 16 << 20;     // of text made here, and of a gzip member
constexpr std::size_t kInflateBytes = 256 << 10;  // unpacked at a time

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "bench.XXXXXX").string();
    require(::mkdtemp(name.data()) != nullptr, Exit::io, "{}: no folder can be made there: {}; set TMPDIR",
            name, std::strerror(errno));
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string operator/(const char* name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

// All documents of a text, one after the other.
struct Documents final : data::DocumentSink {
  std::string bytes;
  std::vector<std::size_t> ends;

  void begin() override {}
  void text(std::string_view piece) override { bytes += piece; }
  void end(std::string_view) override { ends.push_back(bytes.size()); }
  void abandon() override { bytes.resize(ends.empty() ? 0 : ends.back()); }
  void skip(std::string_view) override {}
  void warn(std::string) override {}

  void for_each(const std::function<void(std::string_view)>& use) const {
    std::size_t begin = 0;
    for (const std::size_t end : ends) use(std::string_view(bytes).substr(begin, end - begin)), begin = end;
  }
  // What `make` appends to `bytes` of another, document by document.
  void map_to(Documents& out, const std::function<void(std::string_view, std::string&)>& make) const {
    out.bytes.clear();
    out.ends.clear();
    for_each([&](std::string_view text) {
      make(text, out.bytes);
      out.ends.push_back(out.bytes.size());
    });
  }
};

std::string gzipped(std::string_view text) {  // a member for every kPieceBytes
  std::string packed;
  for (; !text.empty(); text.remove_prefix(std::min(text.size(), kPieceBytes))) {
    const std::string_view piece = text.substr(0, kPieceBytes);
    z_stream stream{};
    constexpr int kGzip = 16, kMemory = 8;
    require(::deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, MAX_WBITS + kGzip, kMemory,
                           Z_DEFAULT_STRATEGY) == Z_OK,
            Exit::memory, "no memory to pack the text");
    const std::size_t before = packed.size();
    packed.resize(before + ::deflateBound(&stream, piece.size()));
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(piece.data()));
    stream.avail_in = static_cast<uInt>(piece.size());
    stream.next_out = reinterpret_cast<Bytef*>(packed.data() + before);
    stream.avail_out = static_cast<uInt>(packed.size() - before);
    ::deflate(&stream, Z_FINISH);
    packed.resize(before + stream.total_out);
    ::deflateEnd(&stream);
  }
  return packed;
}

std::uint64_t inflate_all(std::string_view packed) {
  std::vector<Bytef> out(kInflateBytes);
  std::uint64_t bytes = 0;
  z_stream stream{};
  constexpr int kGzip = 16;
  require(::inflateInit2(&stream, MAX_WBITS + kGzip) == Z_OK, Exit::memory, "no memory to unpack gzip data");
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  std::size_t left = packed.size();
  while (left > 0) {
    stream.avail_in = static_cast<uInt>(std::min<std::size_t>(left, 1u << 30));
    left -= stream.avail_in;
    do {
      stream.next_out = out.data();
      stream.avail_out = static_cast<uInt>(out.size());
      const int result = ::inflate(&stream, Z_NO_FLUSH);
      bytes += out.size() - stream.avail_out;
      if (result == Z_STREAM_END) ::inflateReset(&stream);
      else if (result != Z_OK) break;
    } while (stream.avail_in > 0 || stream.avail_out == 0);
  }
  ::inflateEnd(&stream);
  return bytes;
}

std::string repeated(const std::string& text, std::size_t times) {
  std::string all;
  all.reserve(text.size() * times);
  for (; times > 0; --times) all += text;
  return all;
}

void write(const std::string& name, std::string_view bytes) {
  engine::DurableFile file(name);
  file.write(std::as_bytes(std::span(bytes)));
  file.commit();
}

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(std::min(line.find(':') + 2, line.size()));
  return "unknown processor";
}

class DataBench {
 public:
  explicit DataBench(const BenchDataOptions& options) : options_(options) {}

  void run() {
    const std::string piece = options_.inputs.empty() ? made() : read_inputs();
    piece_bytes_ = piece.size();
    const auto wanted = static_cast<std::size_t>(options_.bytes);
    const std::size_t times = (wanted + piece.size() - 1) / piece.size();
    packed_ = repeated(gzipped(piece), times);
    bytes_ = piece.size() * times;
    write(folder_ / "corpus", repeated(piece, times));
    write(folder_ / "corpus.gz", packed_);
    print("bench data: {}; one core, the last row {} threads; best of {}; {:.1f} MB {}\n", processor(),
          options_.threads, options_.repeats, double(bytes_) / 1e6,
          options_.inputs.empty() ? "of text made here" : "of the input");
    print("{:<32}{:>9}  share of the ceiling\n", "stage", "MB/s");
    ceilings();
    text_stages();
    prepare_stages();
    bench_pages({.pages = pages_,
                 .folder = folder_ / "",
                 .tokenizer = folder_ / "tokenizer",
                 .bytes = bytes_,
                 .threads = options_.threads,
                 .repeats = options_.repeats,
                 .copy = copy_},
                interrupt_);
  }

 private:
  // MB/s of `work` on so many bytes, the best of `repeats`.
  double rate(std::uint64_t bytes, std::int64_t repeats, const std::function<void()>& work) const {
    return best_rate(bytes, repeats, interrupt_, work);
  }

  void row(std::string_view stage, double rate, double ceiling, std::string_view of) const {
    print("{:<32}{:>9.1f}  {:.3f} of {}\n", stage, rate, rate / ceiling, of);
  }
  void text_row(std::string_view stage, std::uint64_t bytes, const std::function<void()>& work,
                std::int64_t repeats) const {
    row(stage, rate(bytes, repeats, work), copy_, "memcpy");
  }

  std::string made() const {
    return make_abstract_dump(std::min(static_cast<std::size_t>(options_.bytes), kPieceBytes), 1);
  }

  std::string read_inputs() const {
    std::string text;
    for (const std::string& name : data::expand_inputs(options_.inputs)) {
      const std::size_t room = static_cast<std::size_t>(options_.bytes) - text.size();
      if (room == 0) break;
      data::Input input(name, {.raw = true, .poll = [this] { interrupt_.check(); }}, room,
                        [](const std::string&) {});
      do {
        text += input.window();
        input.consume(input.window().size());
      } while (input.fill());
    }
    return text;
  }

  void ceilings() {
    const std::vector<char> from(bytes_, 'x');
    std::vector<char> to(bytes_);
    copy_ = rate(bytes_, options_.repeats, [&] {
      std::memcpy(to.data(), from.data(), bytes_);
      [[maybe_unused]] const volatile char used = to[bytes_ / 2];
    });
    print("{:<32}{:>9.1f}  a ceiling\n", "memcpy", copy_);
    std::uint64_t unpacked = 0;
    inflate_ = rate(bytes_, options_.repeats, [&] { unpacked = inflate_all(packed_); });
    if (unpacked != bytes_) throw std::logic_error("bench: zlib gave back another text");
    print("{:<32}{:>9.1f}  a ceiling\n", "zlib inflate", inflate_);
    std::string().swap(packed_);
  }

  void text_stages() {
    Documents read, repaired, text;
    text_row(
        "read documents", bytes_, [&] { read_all(read); }, options_.repeats);
    require(!read.ends.empty(), Exit::data, "the input holds no documents; give a text or a dump");
    std::vector<std::string_view> texts;
    read.for_each([&](std::string_view text) { texts.push_back(text); });
    pages_ = make_pages_dump(texts, kPieceBytes);
    text_row(
        "UTF-8 check and repair", read.bytes.size(),
        [&] {
          read.map_to(repaired, [](std::string_view in, std::string& out) { out += data::repair_utf8(in); });
        },
        options_.repeats);
    read = {};
    const data::Converter converter("t2s");
    text_row(
        "t2s", repaired.bytes.size(),
        [&] {
          repaired.map_to(text, [&](std::string_view in, std::string& out) { converter.convert(in, out); });
        },
        options_.repeats);
    repaired = {};
    tokens(text);
  }

  void read_all(Documents& documents) const {
    documents.bytes.clear();
    documents.ends.clear();
    data::Input input(folder_ / "corpus", {.poll = [this] { interrupt_.check(); }}, UINT64_MAX,
                      [](const std::string&) {});
    data::read_documents(input, {}, documents);
  }

  std::unique_ptr<data::Tokenizer> make_tokenizer(const Documents& text) const {
    if (!options_.vocab.empty()) return data::read_vocab_txt(options_.vocab);
    data::CharCounter counter;
    text.for_each([&](std::string_view document) { counter.add(document); });
    return counter.finish(16384);
  }

  void tokens(const Documents& text) const {
    data::save_tokenizer(*make_tokenizer(text), folder_ / "tokenizer");
    code("WordPiece", *data::load_tokenizer(folder_ / "tokenizer"),
         text);  // nothing was encoded with this one
    code("bbpe", *train_bbpe(text), text);
  }

  // On the text that was there before it was repeated.
  std::unique_ptr<data::ByteBpe> train_bbpe(const Documents& text) const {
    constexpr std::uint32_t kTokens = 30000;
    const auto train = [&](std::uint64_t* bytes) {
      data::WordCounts counts;
      text.for_each([&](std::string_view document) {
        if (counts.text_bytes() < piece_bytes_) counts.add(document), counts.add("\n");
      });
      *bytes = counts.text_bytes();
      return data::train_byte_bpe(std::move(counts),
                                  {.vocab_size = kTokens, .poll = [this] { interrupt_.check(); }});
    };
    std::uint64_t bytes = 0;
    auto vocabulary = train(&bytes);
    text_row(
        "bbpe training", bytes, [&] { train(&bytes); }, options_.repeats);
    return vocabulary;
  }

  void code(std::string_view name, const data::Tokenizer& tokenizer, const Documents& text) const {
    std::vector<std::uint32_t> ids;
    const auto encode = [&] {
      text.for_each([&](std::string_view document) {
        ids.clear();
        tokenizer.encode(document, ids);
      });
    };
    text_row(fmt::format("{} encode, first pass", name), text.bytes.size(), encode, 1);
    text_row(fmt::format("{} encode, later passes", name), text.bytes.size(), encode, options_.repeats);
    ids.clear();
    std::vector<std::size_t> ends;
    text.for_each([&](std::string_view document) {
      tokenizer.encode(document, ids);
      ends.push_back(ids.size());
    });
    std::uint64_t decoded = 0;
    const auto decode = [&] {
      decoded = 0;
      std::size_t begin = 0;
      for (const std::size_t end : ends) {
        decoded += tokenizer.decode(std::span(ids).subspan(begin, end - begin)).size();
        begin = end;
      }
    };
    decode();
    text_row(fmt::format("{} decode", name), decoded, decode, options_.repeats);
  }

  void prepare_stages() const {
    std::vector<std::int64_t> counts{1};
    if (options_.threads > 1) counts.push_back(options_.threads);
    for (const std::int64_t threads : counts) {
      data::PrepareOptions options;
      options.inputs = {folder_ / "corpus.gz"};
      options.tokenizer = folder_ / "tokenizer";
      options.keep_duplicates = true;  // the text repeats itself
      options.output = folder_ / "tokens.bin";
      options.threads = static_cast<int>(threads);
      row(fmt::format("prepare of .gz, {} thread{}", threads, threads == 1 ? "" : "s"),
          rate(bytes_, options_.repeats, [&] { data::prepare(options, &interrupt_); }), inflate_, "inflate");
    }
  }

  const BenchDataOptions& options_;
  const data::Interrupt interrupt_;
  const TemporaryFolder folder_;
  std::string packed_, pages_;
  std::size_t piece_bytes_ = 0;    // of the text that the corpus repeats
  std::size_t bytes_ = 0;          // of the unpacked corpus
  double copy_ = 0, inflate_ = 0;  // the ceilings, in MB/s
};

}  // namespace

void bench_data(const BenchDataOptions& options) { DataBench(options).run(); }

}  // namespace tools
