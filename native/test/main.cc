// Runs every registered test; the exit code tells whether all of them passed.
#include <cinttypes>
#include <cstdio>
#include <vector>

#include "test/check.h"

namespace qcow2::test {
namespace {

struct Entry {
  const char* name;
  void (*body)();
};

std::vector<Entry>& tests() {
  static std::vector<Entry> all;
  return all;
}

int failures = 0;

}  // namespace

Test::Test(const char* name, void (*body)()) { tests().push_back({name, body}); }

void report(const char* file, int line, const char* text) {
  ++failures;
  std::printf("%s:%d: does not hold: %s\n", file, line, text);
}

void reportDifference(const char* file, int line, const char* text, uint64_t actual, uint64_t expected) {
  report(file, line, text);
  std::printf("  actual 0x%" PRIx64 ", expected 0x%" PRIx64 "\n", actual, expected);
}

}  // namespace qcow2::test

int main() {
  for (const auto& test : qcow2::test::tests()) {
    std::printf("%s\n", test.name);
    test.body();
  }
  std::printf("%zu tests, %d failures\n", qcow2::test::tests().size(), qcow2::test::failures);
  return qcow2::test::failures == 0 ? 0 : 1;
}
