// The functions of cuBLAS that the library calls, by CBLAS: sums of another order than the library's own loops, TF32's
// rounding where it is asked for, and 16-bit products whose depth is cut into parts, as cuBLAS cuts it.
#include <cblas.h>
#include <cublas_v2.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include <sparsegrad/core/low_precision.hpp>

#include "device.hpp"

struct cublasContext {
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;  ///< null: cuBLAS's own, which it takes when it needs it
  size_t workspace_bytes = 0;
  cublasPointerMode_t pointer_mode = CUBLAS_POINTER_MODE_HOST;
  cublasMath_t math = CUBLAS_DEFAULT_MATH;
};

namespace {

using sparsegrad::bfloat16;
using sparsegrad::float16;
using sparsegrad::test::cuda_stubs::Device;

constexpr const char* handle_name = "a cuBLAS handle";

// C [m, n] = alpha op(A) op(B) + beta C, all of it by columns.
struct Shape {
  cublasOperation_t op_a, op_b;
  std::int64_t m, n, k, lda, ldb, ldc;

  std::size_t a_entries() const {
    return entries(op_a == CUBLAS_OP_N ? m : k, op_a == CUBLAS_OP_N ? k : m, lda);
  }
  std::size_t b_entries() const {
    return entries(op_b == CUBLAS_OP_N ? k : n, op_b == CUBLAS_OP_N ? n : k, ldb);
  }
  std::size_t c_entries() const { return entries(m, n, ldc); }
  static std::size_t entries(std::int64_t rows, std::int64_t cols, std::int64_t stride) {
    return rows == 0 || cols == 0 ? 0 : static_cast<std::size_t>((cols - 1) * stride + rows);
  }
};

bool covers(const char* what, const Shape& s, const void* a, std::size_t a_size, const void* b,
            std::size_t b_size, const void* c, std::size_t c_size) {
  Device& device = Device::get();
  const std::string name = what;
  return device.covers(name + ", left operand", a, s.a_entries() * a_size) &&
         device.covers(name + ", right operand", b, s.b_entries() * b_size) &&
         device.covers(name + ", result", c, s.c_entries() * c_size);
}

/// What every product asks of its handle.
bool ready(cublasHandle_t handle, const char* what) {
  Device& device = Device::get();
  if (handle->workspace != nullptr)
    return device.covers("cuBLAS's workspace", handle->workspace, handle->workspace_bytes);
  if (!device.is_capturing(handle->stream)) return true;
  device.violation(std::string(what) +
                   " in a capture without a workspace of the caller's: cuBLAS would allocate one");
  return false;
}

cublasStatus_t submit(cublasHandle_t handle, std::function<void()> work) {
  const cudaError_t status = Device::get().status(Device::get().submit(handle->stream, std::move(work)));
  return status == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

/// alpha or beta: read at once, or by the device when the product is done.
template <class T>
std::function<T()> scalar(cublasHandle_t handle, const void* p) {
  const auto* number = static_cast<const T*>(p);
  if (handle->pointer_mode == CUBLAS_POINTER_MODE_DEVICE) return [number] { return *number; };
  return [value = *number] { return value; };
}

CBLAS_TRANSPOSE cblas_op(cublasOperation_t op) {
  return op == CUBLAS_OP_N ? CblasNoTrans : CblasTrans;
}

/// x with TF32's 10 bits of mantissa.
std::vector<float> tf32(const float* x, std::size_t n) {
  std::vector<float> rounded(x, x + n);
  for (float& y : rounded) {
    int exponent = 0;
    const float mantissa = std::frexp(y, &exponent);
    y = std::ldexp(std::nearbyint(std::ldexp(mantissa, 11)), exponent - 11);
  }
  return rounded;
}

void multiply(const Shape& s, float alpha, const float* a, const float* b, float beta, float* c,
              bool rounded) {
  std::vector<float> left, right;
  if (rounded) {
    left = tf32(a, s.a_entries());
    right = tf32(b, s.b_entries());
    a = left.data();
    b = right.data();
  }
  cblas_sgemm(CblasColMajor, cblas_op(s.op_a), cblas_op(s.op_b), static_cast<int>(s.m), static_cast<int>(s.n),
              static_cast<int>(s.k), alpha, a, static_cast<int>(s.lda), b, static_cast<int>(s.ldb), beta, c,
              static_cast<int>(s.ldc));
}
void multiply(const Shape& s, double alpha, const double* a, const double* b, double beta, double* c, bool) {
  cblas_dgemm(CblasColMajor, cblas_op(s.op_a), cblas_op(s.op_b), static_cast<int>(s.m), static_cast<int>(s.n),
              static_cast<int>(s.k), alpha, a, static_cast<int>(s.lda), b, static_cast<int>(s.ldb), beta, c,
              static_cast<int>(s.ldc));
}

template <class T>
cublasStatus_t gemm(cublasHandle_t handle, const Shape& s, const T* alpha, const T* a, const T* b,
                    const T* beta, T* c) {
  constexpr const char* name = "cublas gemm";
  if (!ready(handle, name) || !covers(name, s, a, sizeof(T), b, sizeof(T), c, sizeof(T)))
    return CUBLAS_STATUS_INVALID_VALUE;
  const bool rounded = handle->math == CUBLAS_TF32_TENSOR_OP_MATH;
  return submit(handle, [=, x = scalar<T>(handle, alpha), y = scalar<T>(handle, beta)] {
    if (covers("cublas gemm when it is done", s, a, sizeof(T), b, sizeof(T), c, sizeof(T)))
      multiply(s, x(), a, b, y(), c, rounded);
  });
}

template <class T>
cublasStatus_t gemm_batched(cublasHandle_t handle, const Shape& s, const T* alpha, const T* const* a,
                            const T* const* b, const T* beta, T* const* c, std::int64_t count) {
  constexpr const char* name = "cublas gemm of a batch";
  const auto lists = static_cast<std::size_t>(count) * sizeof(void*);
  for (const void* list :
       {static_cast<const void*>(a), static_cast<const void*>(b), static_cast<const void*>(c)})
    if (!Device::get().covers("cublas gemm of a batch, its lists", list, lists))
      return CUBLAS_STATUS_INVALID_VALUE;
  if (!ready(handle, name)) return CUBLAS_STATUS_INVALID_VALUE;
  const bool rounded = handle->math == CUBLAS_TF32_TENSOR_OP_MATH;
  return submit(handle, [=, x = scalar<T>(handle, alpha), y = scalar<T>(handle, beta)] {
    for (std::int64_t t = 0; t < count; ++t)
      if (covers(name, s, a[t], sizeof(T), b[t], sizeof(T), c[t], sizeof(T)))
        multiply(s, x(), a[t], b[t], y(), c[t], rounded);
  });
}

template <class T>
cublasStatus_t syrk(cublasHandle_t handle, cublasFillMode_t triangle, cublasOperation_t op, std::int64_t n,
                    std::int64_t k, const T* alpha, const T* a, std::int64_t lda, const T* beta, T* c,
                    std::int64_t ldc) {
  const Shape s{op, op == CUBLAS_OP_N ? CUBLAS_OP_T : CUBLAS_OP_N, n, n, k, lda, lda, ldc};
  if (!ready(handle, "cublas syrk") || !covers("cublas syrk", s, a, sizeof(T), a, sizeof(T), c, sizeof(T)))
    return CUBLAS_STATUS_INVALID_VALUE;
  return submit(handle, [=, x = scalar<T>(handle, alpha), y = scalar<T>(handle, beta)] {
    if (!covers("cublas syrk when it is done", s, a, sizeof(T), a, sizeof(T), c, sizeof(T))) return;
    const auto run = [&](auto call) {
      call(CblasColMajor, triangle == CUBLAS_FILL_MODE_UPPER ? CblasUpper : CblasLower, cblas_op(op),
           static_cast<int>(n), static_cast<int>(k), x(), a, static_cast<int>(lda), y(), c,
           static_cast<int>(ldc));
    };
    if constexpr (std::is_same_v<T, float>) {
      run(cblas_ssyrk);
    } else {
      run(cblas_dsyrk);
    }
  });
}

float load(const void* p, cudaDataType type, std::size_t e) {
  if (type == CUDA_R_16BF) return static_cast<float>(static_cast<const bfloat16*>(p)[e]);
  if (type == CUDA_R_16F) return static_cast<float>(static_cast<const float16*>(p)[e]);
  return static_cast<const float*>(p)[e];
}
float rounded_to(cudaDataType type, float x) {
  if (type == CUDA_R_16BF) return static_cast<float>(bfloat16(x));
  if (type == CUDA_R_16F) return static_cast<float>(float16(x));
  return x;
}
void store(void* p, cudaDataType type, std::size_t e, float x) {
  if (type == CUDA_R_16BF) {
    static_cast<bfloat16*>(p)[e] = bfloat16(x);
  } else if (type == CUDA_R_16F) {
    static_cast<float16*>(p)[e] = float16(x);
  } else {
    static_cast<float*>(p)[e] = x;
  }
}
std::vector<float> widened(const void* p, cudaDataType type, std::size_t n) {
  std::vector<float> all(n);
  for (std::size_t e = 0; e < n; ++e)
    all[e] = load(p, type, e);
  return all;
}
std::size_t size_of(cudaDataType type) {
  return type == CUDA_R_32F ? 4 : 2;
}

/// Parts of the depth are summed in float, and then added: in the type of C, unless that is forbidden.
void multiply_in_parts(const Shape& s, float alpha, const void* a, cudaDataType a_type, const void* b,
                       cudaDataType b_type, float beta, void* c, cudaDataType c_type, bool parts_in_float) {
  constexpr std::int64_t part = 16;
  const std::vector<float> left = widened(a, a_type, s.a_entries());
  const std::vector<float> right = widened(b, b_type, s.b_entries());
  for (std::int64_t j = 0; j < s.n; ++j) {
    for (std::int64_t i = 0; i < s.m; ++i) {
      float sum = 0;
      for (std::int64_t first = 0; first < s.k; first += part) {
        float own = 0;
        for (std::int64_t k = first; k < std::min(first + part, s.k); ++k) {
          const std::int64_t place_a = s.op_a == CUBLAS_OP_N ? k * s.lda + i : i * s.lda + k;
          const std::int64_t place_b = s.op_b == CUBLAS_OP_N ? j * s.ldb + k : k * s.ldb + j;
          own += left[static_cast<std::size_t>(place_a)] * right[static_cast<std::size_t>(place_b)];
        }
        sum += own;
        if (!parts_in_float) sum = rounded_to(c_type, sum);
      }
      const auto place = static_cast<std::size_t>(j * s.ldc + i);
      store(c, c_type, place, alpha * sum + (beta == 0 ? 0 : beta * load(c, c_type, place)));
    }
  }
}

}  // namespace

extern "C" {

cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  if (Device::get().forbidden_in_capture("cublasCreate")) return CUBLAS_STATUS_NOT_INITIALIZED;
  *handle = static_cast<cublasHandle_t>(Device::get().hold(handle_name, std::make_shared<cublasContext>()));
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  return Device::get().release(handle_name, handle) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}
const char* cublasGetStatusName(cublasStatus_t) {
  return "cublasStatus";
}
const char* cublasGetStatusString(cublasStatus_t) {
  return "a status of the stubs";
}
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  handle->workspace = nullptr;  // as cuBLAS does
  handle->workspace_bytes = 0;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetStream(cublasHandle_t handle, cudaStream_t* stream) {
  *stream = handle->stream;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(workspace) % 256 != 0) {
    Device::get().violation("cuBLAS's workspace is not aligned to 256 bytes");
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  handle->workspace = workspace;
  handle->workspace_bytes = bytes;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetPointerMode(cublasHandle_t handle, cublasPointerMode_t mode) {
  handle->pointer_mode = mode;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetPointerMode(cublasHandle_t handle, cublasPointerMode_t* mode) {
  *mode = handle->pointer_mode;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  handle->math = mode;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t* mode) {
  *mode = handle->math;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSgemm_64(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                              int64_t m, int64_t n, int64_t k, const float* alpha, const float* a,
                              int64_t lda, const float* b, int64_t ldb, const float* beta, float* c,
                              int64_t ldc) {
  return gemm(handle, {op_a, op_b, m, n, k, lda, ldb, ldc}, alpha, a, b, beta, c);
}
cublasStatus_t cublasDgemm_64(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                              int64_t m, int64_t n, int64_t k, const double* alpha, const double* a,
                              int64_t lda, const double* b, int64_t ldb, const double* beta, double* c,
                              int64_t ldc) {
  return gemm(handle, {op_a, op_b, m, n, k, lda, ldb, ldc}, alpha, a, b, beta, c);
}
cublasStatus_t cublasSgemmBatched_64(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                                     int64_t m, int64_t n, int64_t k, const float* alpha,
                                     const float* const a[], int64_t lda, const float* const b[], int64_t ldb,
                                     const float* beta, float* const c[], int64_t ldc, int64_t count) {
  return gemm_batched(handle, {op_a, op_b, m, n, k, lda, ldb, ldc}, alpha, a, b, beta, c, count);
}
cublasStatus_t cublasDgemmBatched_64(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                                     int64_t m, int64_t n, int64_t k, const double* alpha,
                                     const double* const a[], int64_t lda, const double* const b[],
                                     int64_t ldb, const double* beta, double* const c[], int64_t ldc,
                                     int64_t count) {
  return gemm_batched(handle, {op_a, op_b, m, n, k, lda, ldb, ldc}, alpha, a, b, beta, c, count);
}
cublasStatus_t cublasSsyrk_64(cublasHandle_t handle, cublasFillMode_t triangle, cublasOperation_t op,
                              int64_t n, int64_t k, const float* alpha, const float* a, int64_t lda,
                              const float* beta, float* c, int64_t ldc) {
  return syrk(handle, triangle, op, n, k, alpha, a, lda, beta, c, ldc);
}
cublasStatus_t cublasDsyrk_64(cublasHandle_t handle, cublasFillMode_t triangle, cublasOperation_t op,
                              int64_t n, int64_t k, const double* alpha, const double* a, int64_t lda,
                              const double* beta, double* c, int64_t ldc) {
  return syrk(handle, triangle, op, n, k, alpha, a, lda, beta, c, ldc);
}
cublasStatus_t cublasGemmEx_64(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                               int64_t m, int64_t n, int64_t k, const void* alpha, const void* a,
                               cudaDataType a_type, int64_t lda, const void* b, cudaDataType b_type,
                               int64_t ldb, const void* beta, void* c, cudaDataType c_type, int64_t ldc,
                               cublasComputeType_t, cublasGemmAlgo_t) {
  constexpr const char* name = "cublasGemmEx";
  const Shape s{op_a, op_b, m, n, k, lda, ldb, ldc};
  const auto all_there = [=] {
    return covers(name, s, a, size_of(a_type), b, size_of(b_type), c, size_of(c_type));
  };
  if (!ready(handle, name) || !all_there()) return CUBLAS_STATUS_INVALID_VALUE;
  const bool parts_in_float = (static_cast<int>(handle->math) &
                               static_cast<int>(CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)) != 0;
  return submit(handle, [=, x = scalar<float>(handle, alpha), y = scalar<float>(handle, beta)] {
    if (all_there()) multiply_in_parts(s, x(), a, a_type, b, b_type, y(), c, c_type, parts_in_float);
  });
}

}  // extern "C"
