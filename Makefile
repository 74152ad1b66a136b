# make help lists the targets; every variable below can be set on the command line.

BUILD ?= release#        release | debug | asan | tsan | f64 | emu (GPU kernels run on the CPU, cuda/emulate.h)
CUDA  ?= $(if $(shell command -v nvcc),1,0)#   1: build cuda/ and link it; 0: the stub
CC    ?= cc
NVCC  ?= nvcc
CUDA_ARCH ?= 90#         compute capability to compile for; on others from 8.0 on, kernels are compiled when first run

out := build/$(strip $(BUILD))

cflags.release := -O3 -march=native -fno-math-errno -fno-trapping-math -g
cflags.debug   := -O0 -g3 -DAG_DEBUG
cflags.asan    := -O1 -g3 -DAG_DEBUG -fsanitize=address,undefined -fno-sanitize-recover=undefined
cflags.tsan    := -O1 -g3 -DAG_DEBUG -fsanitize=thread
cflags.f64     := -O2 -g -DAG_F64
cflags.emu     := -O2 -g -DAG_EMULATE
warnings       := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror

CPPFLAGS += -I. -MMD -MP -D_GNU_SOURCE
CFLAGS   += -std=c11 $(warnings) $(cflags.$(strip $(BUILD))) -fopenmp -fPIC -fno-semantic-interposition -ftls-model=initial-exec
LDFLAGS  += $(filter -fsanitize=%,$(cflags.$(strip $(BUILD)))) -fopenmp
LDLIBS   += -lm -pthread -ldl

ifneq ($(wildcard /usr/include/dnnl.h /usr/include/oneapi/dnnl/dnnl.h),)
  CPPFLAGS += -DAG_HAVE_ONEDNN
  LDLIBS   += -ldnnl
endif

sources  := $(wildcard core/*.c ops/*.c nn/*.c optim/*.c data/*.c models/*.c)

# cuda/ is in the release, debug and emu builds; the others, and a machine without nvcc, have the stub.
ifeq ($(strip $(BUILD)),emu)
  sources  += $(filter-out cuda/stub.c cuda/blas_load.c,$(wildcard cuda/*.c cuda/*.cu cuda/*.cpp))
  CPPFLAGS += -DAG_HAVE_CUDA
  LINK      = $(CXX)
else ifeq ($(strip $(CUDA))$(filter asan tsan f64,$(BUILD)),1)
  cuda_home := $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v $(NVCC))))
  sources  += $(filter-out cuda/stub.c,$(wildcard cuda/*.c cuda/*.cu))
  CPPFLAGS += -DAG_HAVE_CUDA
  LDLIBS   += $(firstword $(wildcard $(cuda_home)/lib64/libcudart_static.a $(cuda_home)/lib/libcudart_static.a)) -lrt
else
  sources  += cuda/stub.c
endif
LINK ?= $(CC)
NVCCFLAGS := -std=c++17 -O3 -gencode arch=compute_80,code=[sm_$(CUDA_ARCH),compute_80] -Werror all-warnings \
             -Xptxas -warn-spills,-Werror -Xcompiler -Wall,-fPIC,-fno-threadsafe-statics,-fno-exceptions
CXXFLAGS  := -std=c++17 -Wall -Wextra -Werror -fPIC $(cflags.$(strip $(BUILD)))

examples := $(wildcard examples/*/main.c)
tests    := $(wildcard tests/test_*.c)
objects  := $(sources:%=$(out)/%.o)
lib      := $(out)/libagrad.a

.PHONY: all lib test emulated clean
lib: $(lib)
all: $(lib) $(tests:tests/%.c=$(out)/tests/%)

test: all
	@for t in $(if $(T),$(out)/tests/test_$(T),$(tests:tests/%.c=$(out)/tests/%)); do echo "== $$t" && $$t || exit 1; done
	@$(if $(filter-out cuda,$(T))$(filter-out release,$(BUILD)),,$(MAKE) -s emulated)

# The GPU's kernels on the CPU.
emulated:
	@$(MAKE) -s BUILD=emu build/emu/tests/test_cuda
	@echo "== build/emu/tests/test_cuda" && build/emu/tests/test_cuda

clean:
	rm -rf build

$(lib): $(objects)
	@rm -f $@ && $(AR) rcs $@ $^

$(if $(filter emu,$(BUILD)),$(out)/tests/test_cuda: $(out)/tests/cuda_planted.cu.o)
$(out)/tests/%: $(out)/tests/%.c.o $(lib)
	$(LINK) $(LDFLAGS) $^ $(LDLIBS) -lcmocka -o $@

$(out)/%.c.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -c $< -o $@

ifeq ($(strip $(BUILD)),emu)
$(out)/%.cu.o: %.cu Makefile
	@mkdir -p $(@D)
	$(CXX) -x c++ $(CPPFLAGS) $(CXXFLAGS) -c $< -o $@
else
$(out)/%.cu.o: %.cu Makefile
	@mkdir -p $(@D)
	$(NVCC) $(filter-out -MMD -MP,$(CPPFLAGS)) -MMD -MF $(@:.o=.d) $(NVCCFLAGS) -c $< -o $@
endif

$(out)/%.cpp.o: %.cpp Makefile
	@mkdir -p $(@D)
	$(CXX) $(CPPFLAGS) $(CXXFLAGS) -c $< -o $@

.SECONDARY:
-include $(shell find build -name '*.d' 2>/dev/null)
