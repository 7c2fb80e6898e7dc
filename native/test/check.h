// A test is a function registered under a name; CHECK reports what does not hold and goes on.
#ifndef QCOW2_TEST_CHECK_H_
#define QCOW2_TEST_CHECK_H_

#include <cstdint>

namespace qcow2::test {

struct Test {
  Test(const char* name, void (*body)());
};

void report(const char* file, int line, const char* text);
void reportDifference(const char* file, int line, const char* text, uint64_t actual, uint64_t expected);

// Pseudo-random numbers that are the same in every run.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    state_ += 0x9e3779b97f4a7c15;
    uint64_t mixed = state_;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
    return mixed ^ (mixed >> 31);
  }
  // From 0 to end - 1.
  uint64_t below(uint64_t end) { return next() % end; }

 private:
  uint64_t state_;
};

}  // namespace qcow2::test

#define TEST(name)                                               \
  static void name();                                            \
  static const qcow2::test::Test registered_##name(#name, name); \
  static void name()

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) qcow2::test::report(__FILE__, __LINE__, #condition); \
  } while (false)

#define CHECK_EQUAL(actual, expected)                                                                  \
  do {                                                                                                 \
    const uint64_t actual_ = static_cast<uint64_t>(actual);                                            \
    const uint64_t expected_ = static_cast<uint64_t>(expected);                                        \
    if (actual_ != expected_) {                                                                        \
      qcow2::test::reportDifference(__FILE__, __LINE__, #actual " == " #expected, actual_, expected_); \
    }                                                                                                  \
  } while (false)

#endif  // QCOW2_TEST_CHECK_H_
