# cuda/cuda.mk - which part of cuda/ a build has, and how it is compiled.
#   release, debug   nvcc's kernels where nvcc is found (CUDA=1), else the stub; CUDA=0 forces the stub
#   emu              the kernels on the CPU (cuda/emulate.h): for tests/test_cuda.c on any machine
#   others           the stub

CUDA      ?= $(if $(shell command -v $(NVCC)),1,0)
CUDA_ARCH ?= 90# compute capability to compile for; on others from 8.0 on, kernels are compiled when first run

cflags.emu := -O2 -g -DAG_EMULATE
# A pack read from where it is not aligned is an error on a GPU; here it traps.
aligned.emu := -fsanitize=alignment -fsanitize-undefined-trap-on-error
CXXFLAGS   := -std=c++17 -Wall -Wextra -Werror -fPIC $(cflags.$(BUILD)) $(aligned.$(BUILD))
NVCCFLAGS  := -std=c++17 -O3 -gencode arch=compute_80,code=[sm_$(strip $(CUDA_ARCH)),compute_80] -Werror all-warnings \
              -Xptxas -warn-spills,-Werror -Xcompiler -Wall,-fPIC,-fno-threadsafe-statics,-fno-exceptions
LINK       := $(CC)

ifeq ($(BUILD),emu)
  cuda_sources := $(filter-out cuda/stub.c,$(wildcard cuda/*.c cuda/*.cu cuda/*.cpp))
  CPPFLAGS     += -DAG_HAVE_CUDA
  LINK         := $(CXX)
else ifeq ($(CUDA)$(filter-out release debug,$(BUILD)),1)
  cuda_home    := $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v $(NVCC))))
  cuda_sources := $(filter-out cuda/stub.c,$(wildcard cuda/*.c cuda/*.cu))
  CPPFLAGS     += -DAG_HAVE_CUDA
  LDLIBS       += $(firstword $(foreach l,lib64 lib,$(wildcard $(cuda_home)/$l/libcudart_static.a))) -lrt
else
  cuda_sources := cuda/stub.c
endif

ifeq ($(BUILD),emu)
build/emu/tests/test_cuda build/emu/tests/test_cuda_emulation: build/emu/tests/cuda_planted.cu.o
build/emu/tests/test_cuda_lost: | build/emu/tests/nvml/lib64/libnvidia-ml.so.1

build/emu/tests/nvml/lib64/libnvidia-ml.so.1: tests/fake_nvml.c
	@mkdir -p $(@D)
	@echo "  cc    $@"
	@$(CC) -std=c11 -D_GNU_SOURCE $(warnings) -fPIC -shared $< -o $@

build/emu/%.cu.o: %.cu Makefile cuda/cuda.mk
	@mkdir -p $(@D)
	@echo "  c++   $@"
	@$(CXX) -x c++ $(CPPFLAGS) $(CXXFLAGS) -c $< -o $@

build/emu/%.cpp.o: %.cpp Makefile cuda/cuda.mk
	@mkdir -p $(@D)
	@echo "  c++   $@"
	@$(CXX) $(CPPFLAGS) $(CXXFLAGS) -c $< -o $@
else
$(out)/%.cu.o: %.cu Makefile cuda/cuda.mk
	@mkdir -p $(@D)
	@echo "  nvcc  $@"
	@$(NVCC) $(filter-out -MMD -MP,$(CPPFLAGS)) -MMD -MF $(@:.o=.d) $(NVCCFLAGS) -c $< -o $@
endif
