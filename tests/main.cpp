// The test runner: doctest's, with a report of what was skipped and why, and one closing line.
#define DOCTEST_CONFIG_IMPLEMENT
#include <cstdio>
#include <string>
#include <vector>

#include "tests/support.h"

namespace {

struct Outcome {
  unsigned ran = 0, failed = 0;
  std::vector<std::string> skipped;
};
Outcome outcome;  // doctest makes the listener, so there is no other way from it to main()

struct Listener : doctest::IReporter {
  explicit Listener(const doctest::ContextOptions&) {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats& stats) override {
    outcome.failed = stats.numTestCasesFailed;
  }
  void test_case_start(const doctest::TestCaseData&) override { outcome.ran++; }
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_end(const doctest::CurrentTestCaseStats&) override {}
  void test_case_exception(const doctest::TestCaseException&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}
  void report_query(const doctest::QueryData&) override {}
  // doctest also calls this for cases that a filter left out; only those with a reason were skipped.
  void test_case_skipped(const doctest::TestCaseData& test) override {
    const std::string reason = tests::reason_for_skipping(test.m_name);
    if (!reason.empty()) outcome.skipped.push_back(std::string(test.m_name) + " (" + reason + ")");
  }
};

}  // namespace

DOCTEST_REGISTER_LISTENER("outcome", 1, Listener);

int main(int argc, char** argv) {
  doctest::Context context(argc, argv);
  const int code = context.run();
  if (context.shouldExit()) return code;  // --help and the like
  for (const auto& line : outcome.skipped) std::printf("skipped: %s\n", line.c_str());
  std::printf("%u passed, %u failed, %zu skipped\n", outcome.ran - outcome.failed, outcome.failed,
              outcome.skipped.size());
  return code;
}
