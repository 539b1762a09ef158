// Numbers of a row several at a time: one load or store of 16 bytes for eight numbers of 16 bits, converted by the
// GPU's own instructions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <sparsegrad/core/host_device.hpp>
#include <sparsegrad/core/low_precision.hpp>
#include <sparsegrad/core/view.hpp>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace sparsegrad::finetune::device {

/// The numbers of 16 bits in the lower and the upper half of `word`.
template <class T>
SPARSEGRAD_HOST_DEVICE void widen_two(std::uint32_t word, float& low, float& high) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, float16>) {
    __half2 two;
    memcpy(&two, &word, sizeof two);
    const float2 wide = __half22float2(two);
    low = wide.x;
    high = wide.y;
    return;
  }
#endif
  low = T::from_bits(static_cast<std::uint16_t>(word));
  high = T::from_bits(static_cast<std::uint16_t>(word >> 16));
}

/// The reverse, rounded to nearest, ties to even.
template <class T>
SPARSEGRAD_HOST_DEVICE std::uint32_t round_two(float low, float high) {
#if defined(__CUDA_ARCH__)
  std::uint32_t word;
  if constexpr (std::is_same_v<T, float16>) {
    const __half2 two = __floats2half2_rn(low, high);
    memcpy(&word, &two, sizeof word);
  } else {
    const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
    memcpy(&word, &two, sizeof word);
  }
  return word;
#else
  return T(low).bits | static_cast<std::uint32_t>(T(high).bits) << 16;
#endif
}

/// N numbers of a row in C.
template <class C, int N>
struct Pack {
  C x[N];
};

/// The words of n bytes as the GPU moves them at a time.
template <int Bytes>
struct alignas(Bytes < 16 ? Bytes : 16) PackWords {
  std::uint32_t word[Bytes / 4];
};

/// p[0], ..., p[N - 1], widened. p is aligned to the pack, or to 16 bytes.
template <class T, int N>
SPARSEGRAD_HOST_DEVICE Pack<compute_t<T>, N> load_pack(const T* p) {
  Pack<compute_t<T>, N> pack;
  if constexpr (N == 1) {
    pack.x[0] = *p;
  } else if constexpr (is_low_precision<T>) {
    const auto words = *reinterpret_cast<const PackWords<N * 2>*>(p);
    for (int i = 0; i < N / 2; ++i)
      widen_two<T>(words.word[i], pack.x[2 * i], pack.x[2 * i + 1]);
  } else {
    const auto words = *reinterpret_cast<const PackWords<N* static_cast<int>(sizeof(T))>*>(p);
    memcpy(pack.x, words.word, sizeof pack.x);
  }
  return pack;
}

/// Writes a pack rounded to T, and returns what is there now.
template <class T, int N>
SPARSEGRAD_HOST_DEVICE Pack<compute_t<T>, N> store_pack(T* p, const Pack<compute_t<T>, N>& pack) {
  Pack<compute_t<T>, N> rounded = pack;
  if constexpr (N == 1) {
    *p = static_cast<T>(pack.x[0]);
    rounded.x[0] = *p;
  } else if constexpr (is_low_precision<T>) {
    PackWords<N * 2> words;
    for (int i = 0; i < N / 2; ++i) {
      words.word[i] = round_two<T>(pack.x[2 * i], pack.x[2 * i + 1]);
      widen_two<T>(words.word[i], rounded.x[2 * i], rounded.x[2 * i + 1]);
    }
    *reinterpret_cast<PackWords<N * 2>*>(p) = words;
  } else {
    PackWords<N* static_cast<int>(sizeof(T))> words;
    memcpy(words.word, pack.x, sizeof pack.x);
    *reinterpret_cast<PackWords<N* static_cast<int>(sizeof(T))>*>(p) = words;
  }
  return rounded;
}

/// Whether packs can be read there; nowhere is well too.
template <class T>
bool is_aligned(const T* p) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}
template <class T>
bool is_aligned(const MatrixView<T>& a) {
  return a.empty() || (is_aligned(a.data) && a.stride * static_cast<index_t>(sizeof(T)) % 16 == 0);
}

/// Numbers that a load of 16 bytes brings.
template <class T>
std::integral_constant<int, 16 / sizeof(T)> pack_of(const T*);
template <class T>
std::integral_constant<int, 16 / sizeof(T)> pack_of(const MatrixView<T>&);

/// Calls f(N, cols / N) with N = 16 bytes of the arrays' shortest type where `cols` columns of all of them can be
/// taken so many at a time, else with N = 1.
template <class F, class... Arrays>
void with_packs(index_t cols, const F& f, const Arrays&... arrays) {
  constexpr int size = std::max({decltype(pack_of(arrays))::value...});
  if (cols % size == 0 && (is_aligned(arrays) && ...))
    return f(std::integral_constant<int, size>(), cols / size);
  f(std::integral_constant<int, 1>(), cols);
}

}  // namespace sparsegrad::finetune::device
