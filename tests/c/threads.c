// The caller's own threads by callback, an engine's OpenMP team among them: the same numbers as the library's own.
#include <pthread.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "check.h"

enum { OUT = 320, IN = 256, N = OUT * IN, WORKERS = 3 };

/// A pool as simple as can be: threads that live for one call.
typedef struct Call {
  pthread_mutex_t lock;
  int64_t next, count;
  sparsegrad_task task;
  void* argument;
} Call;
typedef struct Worker {
  Call* call;
  int32_t number;
} Worker;

static void* work(void* pointer) {
  Worker* worker = pointer;
  Call* call = worker->call;
  for (;;) {
    pthread_mutex_lock(&call->lock);
    const int64_t i = call->next++;
    pthread_mutex_unlock(&call->lock);
    if (i >= call->count) return NULL;
    call->task(call->argument, i, worker->number);
  }
}

static void run_pthreads(void* user, int64_t count, sparsegrad_task task, void* argument) {
  ++*(int64_t*)user;
  Call call = {.next = 0, .count = count, .task = task, .argument = argument};
  pthread_mutex_init(&call.lock, NULL);
  Worker workers[WORKERS];
  pthread_t threads[WORKERS];
  for (int i = 0; i < WORKERS; ++i) {
    workers[i].call = &call;
    workers[i].number = i;
  }
  for (int i = 1; i < WORKERS; ++i)
    pthread_create(&threads[i], NULL, work, &workers[i]);
  work(&workers[0]);
  for (int i = 1; i < WORKERS; ++i)
    pthread_join(threads[i], NULL);
  pthread_mutex_destroy(&call.lock);
}

#ifdef _OPENMP
static void run_openmp(void* user, int64_t count, sparsegrad_task task, void* argument) {
  ++*(int64_t*)user;
#pragma omp parallel for schedule(dynamic) num_threads(WORKERS)
  for (int64_t i = 0; i < count; ++i)
    task(argument, i, omp_get_thread_num());
}
#endif

/// Against the contract: leaves the last task out.
static void run_too_few(void* user, int64_t count, sparsegrad_task task, void* argument) {
  ++*(int64_t*)user;
  for (int64_t i = 0; i + 1 < count; ++i)
    task(argument, i, 0);
}
/// Against the contract: a worker that is not there.
static void run_as_stranger(void* user, int64_t count, sparsegrad_task task, void* argument) {
  ++*(int64_t*)user;
  for (int64_t i = 0; i < count; ++i)
    task(argument, i, WORKERS);
}

/// Four steps; the weight is then in w.
static sparsegrad_status train(const sparsegrad_context_options* options, float* w) {
  sparsegrad_context* context = NULL;
  OK(sparsegrad_context_create(options, &context));
  sparsegrad_group_options group_options;
  sparsegrad_group_options_init(&group_options);
  group_options.warmup_steps = 2;
  sparsegrad_group* group = NULL;
  OK(sparsegrad_group_create(context, &group_options, &group));
  fill(w, N, 1);
  OK(sparsegrad_group_add_weight(group, sparsegrad_weight_f32(w, OUT, IN), "up", NULL));
  static float dw[N];
  sparsegrad_status status = SPARSEGRAD_OK;
  for (uint32_t s = 0; s < 4 && status == SPARSEGRAD_OK; ++s) {
    fill(dw, N, s + 2);
    OK(sparsegrad_group_set_gradient(group, 0, sparsegrad_const_f32(dw, OUT, IN)));
    status = sparsegrad_group_step(group, NULL, NULL);
  }
  sparsegrad_group_destroy(group);
  sparsegrad_context_destroy(context);
  return status;
}

int main(void) {
  for (sparsegrad_backend b = SPARSEGRAD_BACKEND_EIGEN; b <= SPARSEGRAD_BACKEND_ONEDNN; ++b) {
    if (!sparsegrad_backend_available(b)) continue;
    static float own[N], lent[N];
    sparsegrad_context_options options;
    sparsegrad_context_options_init(&options);
    options.backend = b;
    options.threads = 1;
    options.deterministic = 1;
    OK(train(&options, own));
    options.threads = 4;
    OK(train(&options, lent));
    CHECK(memcmp(own, lent, sizeof own) == 0);

    int64_t calls = 0;
    options.threads = 0;
    options.executor.concurrency = WORKERS;
    options.executor.user = &calls;
    options.executor.run = run_pthreads;
    OK(train(&options, lent));
    CHECK(calls > 0 && memcmp(own, lent, sizeof own) == 0);
#ifdef _OPENMP
    calls = 0;
    options.executor.run = run_openmp;
    OK(train(&options, lent));
    CHECK(calls > 0 && memcmp(own, lent, sizeof own) == 0);
#endif

    options.executor.run = run_too_few;
    FAILS(SPARSEGRAD_ERROR_STATE, "the executor ran", train(&options, lent));
    options.executor.run = run_as_stranger;
    FAILS(SPARSEGRAD_ERROR_STATE, "as worker 3", train(&options, lent));

    sparsegrad_context* context = NULL;
    options.executor.concurrency = 0;
    FAILS(SPARSEGRAD_ERROR_VALUE, "concurrency is 0", sparsegrad_context_create(&options, &context));
    options.executor.concurrency = WORKERS;
    options.threads = 2;
    FAILS(SPARSEGRAD_ERROR_VALUE, "beside an executor", sparsegrad_context_create(&options, &context));
    CHECK(context == NULL);
  }
  return failure_count != 0;
}
