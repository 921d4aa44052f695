// The files that a run keeps beside its checkpoint ckpt.bin: ckpt.best.bin, ckpt.log.jsonl and, with the step
// in eight digits, the history ckpt.NNNNNNNN.bin (docs/reference.md, "Checkpoint").
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

namespace tools {

// ckpt.bin, ".best.bin" -> ckpt.best.bin
std::filesystem::path beside(const std::filesystem::path& checkpoint, const std::string& ending);
// ckpt.bin, 500 -> ckpt.00000500.bin
std::filesystem::path numbered(const std::filesystem::path& checkpoint, std::int64_t step);

// Of the history up to step `through`, removes all but the `count` latest. Later files stay: they are of a
// run that got farther, and are replaced when this one gets there.
void prune_history(const std::filesystem::path& checkpoint, std::int64_t count, std::int64_t through);

// Removes what killed runs left of the checkpoint, the best one and the history while they wrote them.
void remove_left_overs_of_run(const std::filesystem::path& checkpoint);

}  // namespace tools
