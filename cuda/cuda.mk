# cuda/cuda.mk - which part of cuda/ a build has, and how it is compiled.
#   release, debug   nvcc's kernels where nvcc is found (CUDA=1), else the stub; CUDA=0 forces the stub
#   emu              the kernels on the CPU (cuda/emulate.h): for tests/test_cuda.c on any machine
#   others           the stub
# CUDA_ARCH="80 90": the compute capabilities that nvcc compiles for.

CUDA      ?= $(if $(shell command -v $(NVCC)),1,0)

cflags.emu := -O2 -g -DAG_EMULATE
# A pack read from where it is not aligned is an error on a GPU; here it traps, as all undefined behaviour does.
# SANITIZE=1: and kernels that read or write beside their memory are stopped by the address sanitizer.
aligned.emu := -fsanitize=undefined -fno-sanitize=vptr,float-cast-overflow -fsanitize-undefined-trap-on-error
ifdef SANITIZE
  cflags.emu  += -fsanitize=address
endif
CXXFLAGS   := -std=c++17 -Wall -Wextra -Werror -fPIC $(cflags.$(BUILD)) $(aligned.$(BUILD))
LINK       := $(CC)
comma      := ,

ifeq ($(BUILD),emu)
  cuda_sources := $(filter-out cuda/stub.c,$(wildcard cuda/*.c cuda/*.cu cuda/*.cpp))
  CPPFLAGS     += -DAG_HAVE_CUDA
  LINK         := $(CXX)
else ifeq ($(CUDA)$(filter-out release debug,$(BUILD)),1)
  # Compute capabilities to compile for: those of the GPUs that are here, else each generation that this nvcc knows. PTX of 8.0
  # goes with them: on any other GPU from Ampere on the driver compiles it when it is first run.
  cuda_known   := $(patsubst sm_%,%,$(shell $(NVCC) --list-gpu-code))
  cuda_gpus    := $(if $(shell command -v nvidia-smi),$(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader))
  cuda_here    := $(sort $(filter $(cuda_known),$(subst .,,$(cuda_gpus))))
  CUDA_ARCH    ?= $(or $(cuda_here),$(filter 80 90 100,$(cuda_known)))
  NVCCFLAGS    := -std=c++17 -O3 -gencode arch=compute_80,code=[$(subst $() ,,$(foreach a,$(CUDA_ARCH),sm_$a$(comma)))compute_80] \
                  -Werror all-warnings -Xptxas -warn-spills,-Werror \
                  -Xcompiler -Wall,-fPIC,-fno-threadsafe-statics,-fno-exceptions
  cuda_home    := $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v $(NVCC))))
  cuda_sources := $(filter-out cuda/stub.c,$(wildcard cuda/*.c cuda/*.cu))
  CPPFLAGS     += -DAG_HAVE_CUDA
  LDLIBS       += $(firstword $(foreach l,lib64 lib,$(wildcard $(cuda_home)/$l/libcudart_static.a))) -lrt
else
  cuda_sources := cuda/stub.c
endif

ifeq ($(BUILD),emu)
$(out)/tests/test_cuda $(out)/tests/test_cuda_emulation: $(out)/tests/cuda_planted.cu.o
$(out)/tests/test_cuda_lost: | $(out)/tests/nvml/lib64/libnvidia-ml.so.1
$(out)/tests/test_cuda_ranks: | $(out)/tests/nccl/lib64/libnccl.so.2

$(out)/tests/nvml/lib64/libnvidia-ml.so.1: tests/fake_nvml.c
$(out)/tests/nccl/lib64/libnccl.so.2: tests/fake_nccl.c
$(out)/tests/nvml/lib64/libnvidia-ml.so.1 $(out)/tests/nccl/lib64/libnccl.so.2:
	@mkdir -p $(@D)
	@echo "  cc    $@"
	@$(CC) -std=c11 -D_GNU_SOURCE $(warnings) -fPIC -shared $< -o $@

$(out)/%.cu.o: %.cu Makefile cuda/cuda.mk
	@mkdir -p $(@D)
	@echo "  c++   $@"
	@$(CXX) -x c++ $(CPPFLAGS) $(CXXFLAGS) -c $< -o $@

$(out)/%.cpp.o: %.cpp Makefile cuda/cuda.mk
	@mkdir -p $(@D)
	@echo "  c++   $@"
	@$(CXX) $(CPPFLAGS) $(CXXFLAGS) -c $< -o $@
else
$(out)/%.cu.o: %.cu Makefile cuda/cuda.mk
	@mkdir -p $(@D)
	@echo "  nvcc  $@"
	@$(NVCC) $(filter-out -MMD -MP,$(CPPFLAGS)) -MMD -MF $(@:.o=.d) $(NVCCFLAGS) -c $< -o $@
endif
