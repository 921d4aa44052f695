#include "engine/checkpoint.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>

namespace engine {
namespace {

using nlohmann::json;

std::vector<std::uint64_t> dims(const Shape& shape) {
  std::vector<std::uint64_t> d;
  for (int i = 0; i < shape.rank; i++) d.push_back(std::uint64_t(shape[i]));
  return d;
}

std::string moment_name(const char* moment, const Param& p) {
  return fmt::format("optimizer.{}.{}", moment, p.name);
}

std::string master_name(const Param& p) { return "optimizer.master." + p.name; }

// One tensor of the file: where its values lie on the device, without the rows that exist in memory only.
struct Stored {
  std::string name;
  Shape shape;
  Tensor values;
  FileType type = FileType::f32;  // or bf16, rounded
};

std::vector<Stored> tensors_of(const CheckpointParts& parts) {
  std::vector<Stored> all;
  for (const Param& p : parts.params.all()) {
    all.push_back({p.name, p.file_shape, p.value.slice(0, p.file_shape),
                   parts.weights == DType::bf16 ? FileType::bf16 : FileType::f32});
    if (!parts.optimizer) continue;
    const auto moment = [&](const Tensor& slab) {
      return parts.params.range_of(p, slab).slice(0, p.file_shape);
    };
    if (parts.weights == DType::bf16)
      all.push_back({master_name(p), p.file_shape, moment(parts.params.masters())});
    all.push_back({moment_name("m", p), p.file_shape, moment(parts.optimizer->first_moment())});
    all.push_back({moment_name("v", p), p.file_shape, moment(parts.optimizer->second_moment())});
  }
  return all;
}

// Whether values of fp32 or bf16 are all finite: an exponent of all ones is infinity or NaN.
template <class Bits> bool all_finite(std::span<const std::byte> bytes, Bits exponent) {
  const std::span values(reinterpret_cast<const Bits*>(bytes.data()), bytes.size() / sizeof(Bits));
  bool finite = true;
  for (const Bits value : values) finite &= (value & exponent) != exponent;
  return finite;
}
bool all_finite(std::span<const std::byte> bytes, FileType type) {
  return type == FileType::bf16 ? all_finite<std::uint16_t>(bytes, 0x7f80)
                                : all_finite<std::uint32_t>(bytes, 0x7f800000);
}

constexpr std::int64_t kPiece = std::int64_t(1) << 20;

// Hands the bytes of a tensor in the file to `use` in pieces of that many values, so that saving needs next
// to no memory of its own. `staging` has room for one; null: the host reads the device's memory.
template <class Use> void by_pieces(const Stored& stored, Stream& stream, std::byte* staging, Use&& use) {
  const bool as_it_is = (stored.values.dtype() == DType::bf16) == (stored.type == FileType::bf16);
  for (std::int64_t first = 0; first < stored.values.numel(); first += kPiece) {
    const Tensor piece = stored.values.slice(first, {std::min(kPiece, stored.values.numel() - first)});
    if (as_it_is) {
      if (staging) stream.copy(staging, piece.data(), piece.bytes());
      stream.wait();
      use(std::span(staging ? staging : static_cast<const std::byte*>(piece.data()), piece.bytes()));
      continue;
    }
    const std::vector<float> values = piece.to_host(stream);
    if (stored.type == FileType::f32) {
      use(std::as_bytes(std::span(values)));
    } else {
      const std::vector<k::bf16> rounded(values.begin(), values.end());
      use(std::as_bytes(std::span(rounded)));
    }
  }
}

std::map<std::string, std::uint32_t> read_checksums(const ContainerReader& file) {
  std::map<std::string, std::uint32_t> all;
  const json listed = json::parse(file.meta("crc32"), nullptr, false);
  bool good = listed.is_object();
  for (const auto& [name, value] : listed.items()) {
    const auto* number = value.get_ptr<const json::number_unsigned_t*>();
    good = good && number != nullptr && *number <= 0xFFFFFFFF;
    if (good) all[name] = std::uint32_t(*number);
  }
  require(good, file.bad_file(), "{}: its list of checksums is damaged; copy the file again", file.path());
  return all;
}

using Checksums = std::map<std::string, std::uint32_t>;

void check_crc(const ContainerReader& file, const ContainerEntry& entry, const Checksums& listed) {
  const auto expected = listed.find(entry.name);
  require(expected != listed.end(), file.bad_file(), "{}: has no checksum for the tensor {}", file.path(),
          entry.name);
  const auto found = crc32_of(entry.bytes);
  require(
      found == expected->second, file.bad_file(),
      "{}: tensor {} has the checksum (CRC-32) {:08x}, expected {:08x}: the file is damaged; copy it again",
      file.path(), entry.name, found, expected->second);
}

}  // namespace

void save_checkpoint(const std::filesystem::path& path, const CheckpointParts& parts, Stream& stream) {
  const auto tensors = tensors_of(parts);
  const auto tokenizer = std::as_bytes(std::span(parts.tokenizer.data(), parts.tokenizer.size()));
  json checksums{{"tokenizer", crc32_of(tokenizer)}};
  json longest{{"tokenizer", UINT32_MAX}};
  for (const auto& t : tensors) longest[t.name] = UINT32_MAX;

  std::shared_ptr<std::byte> staging;
  if (stream.device().kind == DeviceKind::cuda)
    staging = allocate_staging(stream.device(), std::size_t(kPiece) * sizeof(float));
  ContainerWriter writer;
  writer.set("format", "nsa-checkpoint/1");
  writer.set("kind", parts.optimizer ? "full" : "weights");
  writer.set("config", parts.config);
  writer.set("state", parts.state);
  writer.set_last("crc32", longest.dump(), [&] { return checksums.dump(); });
  writer.set("made_by", parts.made_by);
  writer.add("tokenizer", FileType::u8, {tokenizer.size()}, tokenizer);
  for (const auto& t : tensors)
    writer.add(t.name, t.type, dims(t.shape), [&](const ContainerWriter::Sink& sink) {
      std::uint32_t checksum = 0;
      by_pieces(t, stream, staging.get(), [&](std::span<const std::byte> bytes) {
        require(all_finite(bytes, t.type), Exit::diverged,
                "{}: not saved: {} holds a value that is not finite; lower --lr or resume an earlier one",
                path.string(), t.name);
        checksum = crc32_of(bytes, checksum);
        sink(bytes);
      });
      checksums[t.name] = checksum;
    });
  writer.save(path);
}

Checkpoint::Checkpoint(const std::filesystem::path& path) : file_(path, Exit::checkpoint) { parse(); }

Checkpoint::Checkpoint(std::span<const std::byte> bytes, std::string name)
    : file_(bytes, std::move(name), Exit::checkpoint) {
  parse();
}

void Checkpoint::parse() {
  file_.require_format("nsa-checkpoint");
  crc32_ = read_checksums(file_);
  const auto& kind = file_.meta("kind");
  require(kind == "full" || kind == "weights", Exit::checkpoint, "{}: of kind '{}', expected full or weights",
          file_.path(), kind);
}

std::string_view Checkpoint::tokenizer() const {
  const auto& entry = file_.at("tokenizer", FileType::u8);
  check_crc(file_, entry, crc32_);
  return {reinterpret_cast<const char*>(entry.bytes.data()), entry.bytes.size()};
}

// The tensor's values, checked: present in one of the two types, of this shape, intact, finite.
std::vector<float> Checkpoint::values_of(const std::string& name, const Shape& shape,
                                         bool may_be_rounded) const {
  const ContainerEntry* found = file_.find(name);
  const bool rounded = may_be_rounded && found && found->type == FileType::bf16;
  const auto& entry = file_.at(name, rounded ? FileType::bf16 : FileType::f32);
  require(entry.shape == dims(shape), Exit::checkpoint,
          "{}: tensor {} does not have the shape {} of its configuration", path(), name, to_string(shape));
  check_crc(file_, entry, crc32_);
  require(all_finite(entry.bytes, entry.type), Exit::checkpoint,
          "{}: tensor {} holds a value that is not finite; use an earlier checkpoint", path(), name);
  std::vector<float> values;
  if (rounded)
    for (k::bf16 v : entry.as<k::bf16>()) values.push_back(float(v));
  else values.assign(entry.as<float>().begin(), entry.as<float>().end());
  return values;
}

void Checkpoint::load(ParamStore& store, Stream& stream) const {
  const auto of_store = [&store](std::string_view name) {
    for (std::string_view moment : {"optimizer.m.", "optimizer.v.", "optimizer.master."})
      if (name.starts_with(moment)) name.remove_prefix(moment.size());
    return name == "tokenizer" || store.find(name);
  };
  for (const auto& entry : file_.entries())
    require(of_store(entry.name), Exit::checkpoint,
            "{}: tensor {} is not part of the model that its configuration describes", path(), entry.name);
  for (const Param& p : store.all()) {
    std::vector<float> values = values_of(p.name, p.file_shape, true);
    if (file_.find(master_name(p))) values = values_of(master_name(p), p.file_shape, false);
    store.set(p, values.data(), stream);
  }
}

void Checkpoint::load(AdamW& optimizer, const ParamStore& store, Stream& stream) const {
  require(has_optimizer(), Exit::checkpoint,
          "{}: holds weights only, no optimizer state; start from it with --init-from", path());
  for (const Param& p : store.all()) {
    const auto load_moment = [&](const char* moment, const Tensor& slab) {
      const auto values = values_of(moment_name(moment, p), p.file_shape, false);
      store.range_of(p, slab).slice(0, p.file_shape).from_host(values.data(), stream);
    };
    load_moment("m", optimizer.first_moment());
    load_moment("v", optimizer.second_moment());
  }
}

void verify_checksums(const ContainerReader& file) {
  const auto expected = read_checksums(file);
  require(expected.size() == file.entries().size(), file.bad_file(),
          "{}: lists {} checksums for {} tensors; the file is damaged", file.path(), expected.size(),
          file.entries().size());
  for (const auto& entry : file.entries()) check_crc(file, entry, expected);
}

}  // namespace engine
