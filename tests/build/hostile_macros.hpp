// Macros that system headers and other libraries define. Eigen, json and LAPACKE do not stand all of them, which is
// not for this library to mend: where a header under test reaches those, every_dependency.hpp comes before.
#undef I
#define I hostile macro  // <complex.h>
#undef B0
#define B0 hostile macro  // <termios.h>
#undef small
#define small hostile macro  // Windows' rpcndr.h
#define near hostile macro   // Windows' minwindef.h
#define far hostile macro
#define interface hostile macro
#define ERROR hostile macro
#define IN hostile macro
#define OUT hostile macro
#define None hostile macro  // X11
#define Bool hostile macro
#define Status hostile macro
#define Always hostile macro
#define True hostile macro
#define False hostile macro
#define CHECK hostile macro  // test and logging libraries
#define REQUIRE hostile macro
#define ASSERT hostile macro
#define THROW hostile macro
#define STRINGIFY hostile macro
#define DEBUG hostile macro
#define STRICT hostile macro  // Windows' headers
#define CONST hostile macro
#define OPTIONAL hostile macro
#define NEAR hostile macro
#define FAR hostile macro
#define DELETE hostile macro
#define NO_ERROR hostile macro
#define GetObject hostile macro
// Windows' minwindef.h has these two without NOMINMAX. The standard library's headers come first: g++'s and clang's own
// do not stand them.
#include <algorithm>
#include <any>
#include <array>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cmath>
#include <concepts>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>
#define min(a, b) hostile macro
#define max(a, b) hostile macro
