#include "engine/checkpoint.h"

#include <algorithm>
#include <cmath>
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

// One tensor of the file: where its values lie on the device, without the rows that exist in memory only.
struct Stored {
  std::string name;
  Shape shape;
  Tensor values;
};

std::vector<Stored> tensors_of(const CheckpointParts& parts) {
  std::vector<Stored> all;
  for (const Param& p : parts.params.all()) {
    all.push_back({p.name, p.file_shape, p.value.slice(0, p.file_shape)});
    if (!parts.optimizer) continue;
    const auto moment = [&](const Tensor& slab) {
      return parts.params.range_of(p, slab).slice(0, p.file_shape);
    };
    all.push_back({moment_name("m", p), p.file_shape, moment(parts.optimizer->first_moment())});
    all.push_back({moment_name("v", p), p.file_shape, moment(parts.optimizer->second_moment())});
  }
  return all;
}

// Hands a tensor's values to `use` in pieces, so that saving needs next to no memory of its own.
template <class Use> void by_pieces(const Tensor& values, Stream& stream, Use&& use) {
  constexpr std::int64_t kPiece = std::int64_t(1) << 20;
  for (std::int64_t first = 0; first < values.numel(); first += kPiece)
    use(values.slice(first, {std::min(kPiece, values.numel() - first)}).to_host(stream));
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
  json checksums = json::object();
  for (const auto& t : tensors) {
    std::uint32_t checksum = 0;
    by_pieces(t.values, stream, [&](const std::vector<float>& values) {
      const bool finite = std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
      require(finite, Exit::diverged,
              "{}: not saved: {} holds a value that is not finite; lower --lr or resume an earlier one",
              path.string(), t.name);
      checksum = crc32_of(std::as_bytes(std::span(values)), checksum);
    });
    checksums[t.name] = checksum;
  }
  const auto tokenizer = std::as_bytes(std::span(parts.tokenizer.data(), parts.tokenizer.size()));
  checksums["tokenizer"] = crc32_of(tokenizer);

  ContainerWriter writer;
  writer.set("format", "nsa-checkpoint/1");
  writer.set("kind", parts.optimizer ? "full" : "weights");
  writer.set("config", parts.config);
  writer.set("state", parts.state);
  writer.set("crc32", checksums.dump());
  writer.set("made_by", parts.made_by);
  writer.add("tokenizer", FileType::u8, {tokenizer.size()}, tokenizer);
  for (const auto& t : tensors)
    writer.add(t.name, FileType::f32, dims(t.shape), [&t, &stream](const ContainerWriter::Sink& sink) {
      by_pieces(t.values, stream,
                [&sink](const std::vector<float>& values) { sink(std::as_bytes(std::span(values))); });
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

void Checkpoint::load_tensor(const std::string& name, const Shape& shape, const Tensor& into,
                             Stream& stream) const {
  const auto& entry = file_.at(name, FileType::f32);
  require(entry.shape == dims(shape), Exit::checkpoint,
          "{}: tensor {} does not have the shape {} of its configuration", path(), name, to_string(shape));
  check_crc(file_, entry, crc32_);
  const auto values = entry.as<float>();
  const bool finite = std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
  require(finite, Exit::checkpoint,
          "{}: tensor {} holds a value that is not finite; use an earlier checkpoint", path(), name);
  into.slice(0, shape).from_host(values.data(), stream);
}

void Checkpoint::load(ParamStore& store, Stream& stream) const {
  const auto of_store = [&store](std::string_view name) {
    for (std::string_view moment : {"optimizer.m.", "optimizer.v."})
      if (name.starts_with(moment)) name.remove_prefix(moment.size());
    return name == "tokenizer" || store.find(name);
  };
  for (const auto& entry : file_.entries())
    require(of_store(entry.name), Exit::checkpoint,
            "{}: tensor {} is not part of the model that its configuration describes", path(), entry.name);
  for (const Param& p : store.all()) load_tensor(p.name, p.file_shape, p.value, stream);
}

void Checkpoint::load(AdamW& optimizer, const ParamStore& store, Stream& stream) const {
  require(has_optimizer(), Exit::checkpoint,
          "{}: holds weights only, no optimizer state; start from it with --init-from", path());
  for (const Param& p : store.all()) {
    load_tensor(moment_name("m", p), p.file_shape, store.range_of(p, optimizer.first_moment()), stream);
    load_tensor(moment_name("v", p), p.file_shape, store.range_of(p, optimizer.second_moment()), stream);
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
