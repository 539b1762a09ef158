// The encoder and the trainer on the CPU in bfloat16, against float: passes over the models of golden/make_bert_goldens.py,
// the losses of runs, saved states and models; and the program's commands in it.
#include "models/host_backend.hpp"

using DeviceBackend = sparsegrad::HostBackend;

#define SPARSEGRAD_TEST_NARROW_TYPES bfloat16
#include "support/narrow_engine.hpp"
