#include <sparsegrad/core/view.hpp>
#include <sparsegrad/version.hpp>
#include <thread>

int main() {
  float numbers[6] = {1, 2, 3, 4, 5, 6};
  const sparsegrad::MatrixView<float> view(numbers, 2, 3);
  std::thread other([&view] { view(1, 2) += 1.0f; });
  other.join();
  return view(1, 2) == 7.0f && SPARSEGRAD_VERSION[0] == '0' ? 0 : 1;
}
