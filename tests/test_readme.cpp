// The commands of README.md are run as they stand there: every line of its ```sh blocks that calls one of our
// programs.
#include <sstream>

#include "tests/support.h"

TEST_CASE("readme: its commands work") {
  const tests::TempDir folder;
  const auto repository = tests::repository();
  std::filesystem::create_symlink(repository / "data", folder / "data");
  std::filesystem::create_directory(folder / "demo");
  for (const char* name : {"prepare", "tokenizer", "inspect", "train_gpt", "sample"})
    std::filesystem::create_symlink(tests::program(name).substr(1, tests::program(name).size() - 2),
                                    folder / name);

  std::istringstream readme(tests::read_file(repository / "README.md"));
  bool commands = false;
  int ran = 0;
  for (std::string line; std::getline(readme, line);) {
    if (line.starts_with("```")) {
      commands = line == "```sh";
      continue;
    }
    if (!commands || !line.starts_with("./")) continue;
    ran++;
    const tests::Ran result = tests::run_command("cd '" + folder.path().string() + "' && " + line);
    CAPTURE(line);
    CAPTURE(result.err);
    CHECK(result.code == 0);
    if (line.starts_with("./sample")) CHECK(result.out.starts_with("数学"));
  }
  CHECK(ran == 3);
}
