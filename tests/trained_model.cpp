#include "tests/trained_model.h"

#include <stdexcept>

namespace tests {

const TrainedModel& TrainedModel::get() {
  static const TrainedModel model;
  return model;
}

std::string TrainedModel::flags() {
  return " --preset tiny --layers 1 --width 32 --heads 2 --head-dim 16 --ffn 64 -t 40 -b 4 --accum 2 "
         "--warmup 5 --lr 3e-3 ";
}

TrainedModel::TrainedModel() {
  const std::string text = "'" + (repository() / "data/sample/zhwiki-abstract-sample.xml").string() + "'";
  const Ran prepared = run_command(program("prepare") + " " + text + " --kind char --val 0.05 -o " + data());
  if (prepared.code != 0) throw std::runtime_error("tests: prepare failed: " + prepared.err);
  training_ = run_command(program("train_gpt") + flags() + "-x 20 -v 10 -s 10 --prompt 北京 -d " + data() +
                          " -o " + checkpoint());
  if (training_.code != 0) throw std::runtime_error("tests: train_gpt failed: " + training_.err);
}

void check_refused(const Ran& ran, const std::string& program, int code, const std::string& mentions) {
  check_one_line(ran, program, code, {mentions});
  CHECK(ran.out == "");
}

}  // namespace tests
