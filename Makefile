# make                 all programs           make train | sample | bench | tools   one group
# make V=1             shows every command
# make demo            the whole path on the bundled text            make test   build and run all tests
# make deps            install what is missing (Debian, Ubuntu)      make check  format and include rules
# make fuzz TARGET=container SECONDS=300   hostile bytes for one parser, with clang's libFuzzer (docs/testing.md)
# make CUDA=0|1        without or with the GPU back end              make ARCH="80 90a"   for these GPUs
# make DEBUG=1         -O0 -g, asserts        make SAN=1   ASan + UBSan       make BUILD=dir   objects elsewhere
ifeq ($(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc)
endif
MAKEFLAGS += --no-print-directory

Q         := $(if $(filter 1,$(V)),,@)
BUILD     ?= build$(if $(filter 1,$(SAN)),-san,$(if $(filter 1,$(DEBUG)),-debug))
CPU_ARCH  ?= native
PREFIX    ?= /usr/local
NVCC      ?= $(shell command -v nvcc)
GPUS      := $(shell command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -E '^[0-9]+\.[0-9]+$$' | tr -d . | sort -u)
CUDA      ?= $(if $(and $(NVCC),$(GPUS)),1,0)
ARCH      ?= $(if $(GPUS),$(patsubst 90,90a,$(GPUS)),90a)

PROGRAMS  := prepare tokenizer inspect train_gpt sample bench
SOURCES   := $(wildcard kernels/*.cpp engine/*.cpp engine/ops/*.cpp model/*.cpp data/*.cpp) \
             $(filter-out $(PROGRAMS:%=tools/%.cpp) tools/make_unicode_tables.cpp,$(wildcard tools/*.cpp))
FUZZ      := $(filter-out tests/fuzz/libfuzzer.cpp,$(wildcard tests/fuzz/*.cpp))
TESTS     := $(wildcard tests/*.cpp) $(FUZZ)
# What the fuzz targets need of the library.
FUZZED    := $(filter-out data/prepare.cpp data/part_stream.cpp data/block_converter.cpp data/token_file_writer.cpp \
               data/token_exchange.cpp data/interrupt.cpp data/vocabulary_trainer.cpp,$(wildcard data/*.cpp)) $(wildcard engine/*.cpp) kernels/adamw.cpp kernels/basic.cpp kernels/matmul.cpp \
             model/config.cpp $(addprefix tools/,cli.cpp console.cpp format.cpp train_flags.cpp train_state.cpp)
TARGETS   := $(basename $(notdir $(filter-out %/support.cpp,$(FUZZ))))
SECONDS   ?= 60

OPTIMIZE  := -O3 -DNDEBUG
ifeq ($(DEBUG),1)
OPTIMIZE  := -O0 -g
endif
ifeq ($(SAN),1)
OPTIMIZE  := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
endif
ifeq ($(COMPILE_FUZZ),1)
CXX       := clang++
OPTIMIZE  := -O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined,float-cast-overflow \
             -fno-sanitize-recover=all -Wno-unknown-warning-option -Wno-pass-failed
endif
# -Wno-restrict: g++ 12 warns of its own std::string (GCC bug 105651).
# -ffp-contract=off: a product and a sum round the same way in every kernel; where one rounding is wanted, it says fma.
# -fno-math-errno: std::sqrt in a loop can be vectorised.
# MOVES: where a constant of 32 bytes fills a register of AVX-512, g++ 12.2 may store copies of its first word ({1, 1, 0, 0}
# becomes {1, 1, 1, 1}); it does not where it moves 16 bytes at once.
MOVES     := $(shell $(CXX) -mmove-max=128 -mstore-max=128 -E -x c++ /dev/null >/dev/null 2>&1 && \
               echo -mmove-max=128 -mstore-max=128)
FLAGS     := -std=c++20 $(OPTIMIZE) -march=$(CPU_ARCH) $(MOVES) -ffp-contract=off -fno-math-errno -fopenmp -Wall -Wextra -Werror -Wno-restrict -I. $(CXXFLAGS)
# Libraries that are used where their headers are: to unpack .zst and .xz, and libbz2 to compare with.
HASH      := \#
optional   = $(shell echo '$(HASH)include <$(1)>' | $(CXX) -E -x c++ - >/dev/null 2>&1 && echo $(2))
LIBS      := -Wl,--as-needed -lopenblas -lopencc -lfmt -lz -lcrypto $(call optional,zstd.h,-lzstd) \
             $(call optional,lzma.h,-llzma) $(call optional,bzlib.h,-lbz2) $(LDFLAGS)

ifeq ($(CUDA),1)
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
SOURCES   += $(wildcard kernels/*.cu)
FLAGS     += -DENGINE_CUDA=1
NVFLAGS   := -std=c++20 -O3 -I. -lineinfo -Werror all-warnings -Xcompiler -Wall,-Wextra
# A name that ends with an architecture is for that one alone.
FOR        = $(foreach a,$(if $(filter %_sm90.cu,$<),90a,$(ARCH)),-gencode=arch=compute_$(a),code=sm_$(a))
LIBS      += -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 -lcublasLt -lcudart -lcupti
endif

OBJECTS   := $(SOURCES:%=$(BUILD)/%.o)
LIBRARY   := $(BUILD)/libengine.a
COMMANDS  := $(CXX) $(FLAGS) $(LIBS) $(if $(filter 1,$(CUDA)),$(NVCC) $(NVFLAGS) $(FOR))
AT_ROOT   := $(if $(filter build,$(BUILD)),1)
BINARIES  := $(if $(AT_ROOT),$(PROGRAMS),$(PROGRAMS:%=$(BUILD)/bin/%))

all: $(BINARIES)
train: $(filter %train_gpt,$(BINARIES))
sample: $(if $(AT_ROOT),,$(BUILD)/bin/sample)
bench: $(if $(AT_ROOT),,$(BUILD)/bin/bench)
tools: $(filter-out %train_gpt %sample %bench,$(BINARIES))

$(PROGRAMS): %: $(BUILD)/bin/%
	@ln -f $< $@
$(BUILD)/bin/%: $(BUILD)/tools/%.cpp.o $(LIBRARY)
	@mkdir -p $(@D)
	@echo "  $@"
	$(Q)$(CXX) $(FLAGS) $^ $(LIBS) -o $@
$(BUILD)/run_tests: $(TESTS:%=$(BUILD)/%.o) $(LIBRARY)
	@echo "  $@"
	$(Q)$(CXX) $(FLAGS) $^ $(LIBS) -lutf8proc -o $@
$(BUILD)/fuzz: $(FUZZED:%=$(BUILD)/%.o) $(FUZZ:%=$(BUILD)/%.o) $(BUILD)/tests/fuzz/libfuzzer.cpp.o
	@echo "  $@"
	$(Q)$(CXX) $(FLAGS) -fsanitize=fuzzer $^ $(LIBS) -o $@
$(LIBRARY): $(OBJECTS)
	@rm -f $@
	$(Q)ar rcs $@ $^
$(BUILD)/%.cpp.o: %.cpp $(BUILD)/commands
	@mkdir -p $(@D)
	@echo "  $<"
	$(Q)$(CXX) $(FLAGS) -MMD -MP -c $< -o $@
$(BUILD)/%.cu.o: %.cu $(BUILD)/commands
	@mkdir -p $(@D)
	@echo "  $<"
	$(Q)$(NVCC) $(NVFLAGS) $(FOR) -MMD -MP -c $< -o $@
# A change of compiler, flags or back end rebuilds.
$(BUILD)/commands: FORCE
	@mkdir -p $(@D)
	@echo '$(COMMANDS)' | cmp -s - $@ || { echo '$(COMMANDS)' > $@; \
	  echo '$(if $(filter 1,$(CUDA)),building for CUDA: sm_$(ARCH),building for the CPU ($(if $(filter 0,$(origin CUDA)),CUDA=0,$(if $(NVCC),no GPU found; make CUDA=1 builds for one,no nvcc found)))))'; }

deps:
	@tools/deps.sh
demo: deps
	@$(MAKE) all
	@tools/demo.sh
test: deps
	@$(MAKE) $(BUILD)/run_tests $(BINARIES)
	@$(BUILD)/run_tests
fuzz:
	@$(if $(filter $(TARGETS),$(TARGET)),:,echo 'make fuzz TARGET=$(TARGET): expected one of $(TARGETS)' >&2; exit 2)
	@printf '#include <omp.h>\n' | clang++ -fopenmp -fsyntax-only -x c++ - 2>/dev/null || { \
	  echo 'make fuzz: needs clang++ with OpenMP; apt-get install clang libomp-dev' >&2; exit 2; }
	@$(MAKE) COMPILE_FUZZ=1 CUDA=0 BUILD=$(BUILD)-fuzz $(BUILD)-fuzz/fuzz
	@mkdir -p tests/fuzz/findings $(BUILD)-fuzz/found/$(TARGET)
	@FUZZ_TARGET=$(TARGET) $(BUILD)-fuzz/fuzz -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=2048 \
	  -dict=tests/fuzz/words.dict -artifact_prefix=tests/fuzz/findings/$(TARGET)- -print_final_stats=1 \
	  $(FUZZ_FLAGS) $(BUILD)-fuzz/found/$(TARGET) tests/fuzz/corpus/$(TARGET)
check:
	@tools/check.sh
tables: $(BUILD)/tools/make_unicode_tables.cpp.o
	$(CXX) $(FLAGS) $^ -lutf8proc -lfmt -o $(BUILD)/make_unicode_tables
	$(BUILD)/make_unicode_tables > data/unicode_tables.cpp
install: all
	install -d $(DESTDIR)$(PREFIX)/bin
	install $(PROGRAMS:%=$(BUILD)/bin/%) $(DESTDIR)$(PREFIX)/bin
clean:
	rm -rf build build-* $(PROGRAMS)

FORCE:
.PHONY: all train tools deps demo test fuzz check tables install clean FORCE data engine kernels model tests
.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
