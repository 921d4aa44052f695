// What a checkpoint holds, on the container: parameters, optimizer moments, the model's configuration, the
// state of the run, the tokenizer (docs/reference.md, "Files").
#pragma once
#include <filesystem>
#include <string>
#include <string_view>

#include "engine/container.h"
#include "engine/optimizer.h"

namespace engine {

struct CheckpointParts {
  const ParamStore& params;
  const AdamW* optimizer = nullptr;  // none: kind "weights", else "full"
  // How the weights are stored. bf16: rounded, beside their fp32 masters in a full checkpoint.
  DType weights = DType::f32;
  std::string config = {}, state = {};  // JSON
  std::string_view tokenizer = {};      // its serialized form
  std::string made_by = {};
};

// Writes durably. Throws Error(io), or Error(diverged) if a parameter is not finite: a bad model never
// replaces a good one.
void save_checkpoint(const std::filesystem::path&, const CheckpointParts&, Stream&);

class Checkpoint {
 public:
  explicit Checkpoint(const std::filesystem::path&);  // throws Error(checkpoint)
  // The same over bytes in memory, as ContainerReader takes them.
  Checkpoint(std::span<const std::byte> bytes, std::string name);
  const std::string& config() const { return file_.meta("config"); }
  const std::string& state() const { return file_.meta("state"); }
  std::string_view tokenizer() const;
  bool has_optimizer() const { return file_.meta("kind") == "full"; }
  const std::string& path() const noexcept { return file_.path(); }

  // Fill a sealed store (from the masters where there are some), or an optimizer's moments, from the file.
  // Every tensor must be there with the parameter's shape and its checksum; tensors that the store does not
  // know are refused. Throws
  // Error(checkpoint).
  void load(ParamStore&, Stream&) const;
  void load(AdamW&, const ParamStore&, Stream&) const;

 private:
  void parse();
  std::vector<float> values_of(const std::string& name, const Shape& shape, bool may_be_rounded) const;

  ContainerReader file_;
  std::map<std::string, std::uint32_t> crc32_;
};

// Compares the bytes of every tensor with the checksums that the file's metadata `crc32` lists. Throws.
void verify_checksums(const ContainerReader&);

}  // namespace engine
