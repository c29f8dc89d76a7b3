# llama.c: make, make demo, make test; make help lists the rest.
#
# The next line is for BSD make, which stops there and shows its text. To GNU make it is a target that nothing needs.
.error : this Makefile needs GNU make, which BSD systems call gmake

CC ?= cc
CFLAGS ?= -O3 -g1
WARNINGS = -Wall -Wextra -Wpedantic
MACHINE := $(shell $(CC) -dumpmachine)
THREADS = -pthread
SHARED = libllamac.so.0
SHARED_FLAGS = -shared -Wl,-soname,$(SHARED)$(NODELETE)
SHARED_LINK = libllamac.so
ifneq (,$(findstring mingw,$(MACHINE)))
# Windows, by MinGW-w64. One file without DLLs. gcc believes that the stack is aligned for AVX; the assembler knows better
EXE = .exe
THREADS =
STATIC = -static
MOVES = $(shell echo | $(CC) -Wa,-muse-unaligned-vector-move -xc -c -o /dev/null - 2>/dev/null && echo -Wa,-muse-unaligned-vector-move)
endif
ifneq (,$(findstring darwin,$(MACHINE)))
SHARED = libllamac.0.dylib
SHARED_FLAGS = -dynamiclib -install_name '$(LIBDIR)/$(SHARED)'
SHARED_LINK = libllamac.dylib
endif
ifeq ($(OPENMP),1)
OMP = -fopenmp -DLLAMA_OPENMP
NODELETE = ,-z,nodelete # OpenMP's threads go on after dlclose
endif
# Without the folder's name: two builds in two folders have the same bytes
ALL_CFLAGS = -std=c11 $(THREADS) $(WARNINGS) $(CFLAGS) $(OMP) $(MOVES) -ffile-prefix-map='$(CURDIR)'=.
LIBRARY = llama.c tokenizer.c
HEADERS = llama.h

VERSION = $(shell awk '/define LLAMA_RELEASE/ { printf "%d.%d.%d", $$3 / 10000, $$3 / 100 % 100, $$3 % 100 }' llama.h)
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
MANDIR ?= $(PREFIX)/share/man

# Objects depend on how they are compiled: a change of flags makes them anew.
FLAGS = $(CC) $(ALL_CFLAGS) $(LDFLAGS) $(STATIC)

all: llama$(EXE)

llama$(EXE): build/llama.o build/main.o build/tokenizer.o
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) $(STATIC) -o $@ $^ -lm
	@echo 'built ./$@ for $(MACHINE): $(CC) $(CFLAGS)$(if $(STATIC),$(comma) no shared libraries)$(if $(OMP),$(comma) OpenMP)'
comma = ,

# One file that runs on any Linux of its processor, with glibc or, by CC=musl-gcc, musl
static:
	$(MAKE) STATIC=-static llama$(EXE)

# The command for several machines: `mpirun -np 2 ./llama-mpi MODEL ...`. MPICC: MPI's compiler, such as mpicc.mpich
MPICC ?= mpicc
mpi: llama-mpi
llama-mpi: main.c build/llama.o build/tokenizer.o FORCE # MPICC may be another one than before
	$(MPICC) $(ALL_CFLAGS) -DLLAMA_MPI $(LDFLAGS) -o $@ main.c build/llama.o build/tokenizer.o -lm

build/llama.1: llama tests/tools/manpage.sh
	sh tests/tools/manpage.sh ./llama >$@

build/%.o: %.c $(HEADERS) build/flags
	$(CC) $(ALL_CFLAGS) $(PIC) -c -o $@ $<

build/llama.o build/tokenizer.o: PIC = -fPIC
build/tokenizer.o: llama.c # its part IV

build/libllamac.a: build/llama.o build/tokenizer.o
	rm -f $@
	$(AR) rcs $@ $^

build/$(SHARED): build/llama.o build/tokenizer.o
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) $(SHARED_FLAGS) -o $@ $^ -lm

# Test programs. They are compiled quickly, as they are run once: -O1 without -g is three times as fast as -O3 -g. math
# and avx512, which include llama.c, take -Og: gcc then compiles them twice to five times as fast as at -O1.
TEST_CFLAGS = -O1 -g0
TEST_HEADERS = tests/tools/test.h tests/tools/checkpoint.h
vpath %.c tests/unit tests/robustness tests/reference tests/performance

build/tests/%: build/tests/%.o build/llama.o build/tokenizer.o
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) $(WRAPS) -o $@ $^ -lm

# The disk of this suite, and the system's threads, are its own (gcc, glibc)
build/tests/stream build/sanitized/stream: private WRAPS = -Wl,--wrap=pread,--wrap=open,--wrap=pthread_create

build/tests/%.o: %.c $(TEST_HEADERS) $(HEADERS) build/flags
	@mkdir -p build/tests
	$(CC) $(ALL_CFLAGS) $(TEST_CFLAGS) -c -o $@ $<

# Programs that include llama.c
build/tests/math build/tests/amx: build/tests/%: tests/unit/%.c $(TEST_HEADERS) $(LIBRARY) $(HEADERS) build/flags
	@mkdir -p build/tests
	$(CC) $(ALL_CFLAGS) $(TEST_CFLAGS) -o $@ $< -lm

# As the library is compiled
build/tests/math_optimized: tests/unit/math.c $(TEST_HEADERS) $(LIBRARY) $(HEADERS) build/flags
	@mkdir -p build/tests
	$(CC) $(ALL_CFLAGS) -o $@ $< -lm
build/tests/math build/tests/avx512.o: TEST_CFLAGS = -Og -g0
build/tests/amx build/tests/bench.o: TEST_CFLAGS =

.SECONDARY:

build/flags: FORCE
	@mkdir -p build
	@echo '$(FLAGS)' | cmp -s - $@ || echo '$(FLAGS)' > $@

# A story by our own tiny model (tests/tiny/README.md)
demo: llama
	@./llama tests/tiny "There was once a poor woodcutter" -c 256 -n 220 --temp 0.8 --top-p 0.9 --echo

# The source as one page, prose left and code right, with the tiny model's numbers
book: llama
	@sh tests/tools/python.sh json tests/tools/book.py ./llama tests/tiny build/book/index.html

# The tests: tests/README.md. The runner builds what its suites need, on all cores; it needs no network and no other data.
test:
	+@sh tests/run.sh test

# Everything, which takes minutes
check:
	+@sh tests/run.sh check

# Against the goldens, where the data are: ../shared/conformance.tar.xz, ../shared/family
CONFORMANCE ?= ../shared/conformance.tar.xz
FAMILY ?= ../shared/family
conformance: llama build/$(SHARED) $(addprefix build/tests/,conformance bits math amx tokenizer_speed)
	sh tests/reference/conformance.sh '$(CONFORMANCE)' '$(FAMILY)'

# The same bits from every compiler, flag, thread count, batch and kernel: needs the conformance data
bits:
	sh tests/reference/one_answer.sh '$(CONFORMANCE)'

# How fast, as fractions of this machine's limits; fails if a fraction is over 100%. Without MODEL, a folder of 1.3 GB is
# made under build/
bench: build/tests/bench
	build/tests/bench $(BENCH) $(MODEL)

# libFuzzer over everything that reads what others wrote, SECONDS each; needs clang. TARGETS: some of them
SECONDS ?= 60
fuzz:
	sh tests/robustness/fuzz.sh "$(SECONDS)" "$(TARGETS)"

# Every allocation and system call of the library and the command failed, once and from then on
WRAPPED = aligned_alloc malloc calloc realloc free open close fstat stat access mmap munmap madvise mincore mlock read pread \
    write fsync rename unlink realpath fchmod fopen fileno pthread_create pthread_detach sched_getaffinity isatty \
    poll getentropy clock_gettime exit readlink getrlimit
# Programs in which stray accesses and undefined operations are fatal. gcc compiles them eight times as fast at -Og as at
# -O1, and seven times as fast without the kernels' inlining.
SANITIZED = -std=c11 -pthread $(WARNINGS) -Og -g1 -Dalways_inline=unused -fno-omit-frame-pointer $(OMP) \
    -fsanitize=address,undefined -fno-sanitize-recover=all
SANITIZED_LIBRARY = build/sanitized/llama.o build/sanitized/tokenizer.o

build/sanitized/%.o: %.c $(TEST_HEADERS) $(HEADERS) build/flags
	@mkdir -p build/sanitized
	$(CC) $(SANITIZED) -c -o $@ $<

build/sanitized/tokenizer.o build/sanitized/math.o build/sanitized/amx.o: $(LIBRARY)

build/sanitized/%: build/sanitized/%.o $(SANITIZED_LIBRARY)
	$(CC) $(SANITIZED) $(WRAPS) -o $@ $^ -lm

build/sanitized/math build/sanitized/amx: build/sanitized/%: build/sanitized/%.o
	$(CC) $(SANITIZED) -o $@ $^ -lm

build/sanitized/llama: build/sanitized/main.o $(SANITIZED_LIBRARY)
	$(CC) $(SANITIZED) -o $@ $^ -lm

build/sanitized/faults_main.o: tests/robustness/faults.c main.c $(HEADERS) build/flags
	@mkdir -p build/sanitized
	$(CC) $(SANITIZED) -DCOMMAND -c -o $@ $<

build/tests/faults: build/sanitized/faults.o build/sanitized/faults_main.o $(SANITIZED_LIBRARY)
	@mkdir -p build/tests
	$(CC) $(SANITIZED) $(WRAPPED:%=-Wl,--wrap=%) -o $@ $^ -lm

faults: build/tests/faults build/tests/formats
	@mkdir -p build/work
	build/tests/formats tests/tiny build/work/forms --case vocabularies
	build/tests/faults tests/tiny build/work/forms/cli build/work/faults

# 100,000 tokens and 10,000 models opened and closed: nothing grows
soak: build/tests/soak
	build/tests/soak tests/tiny 100000 10000

# kill -9 while a prompt cache is written, so many times: the old file stays, or the new one is there
KILLS ?= 1000
killed: llama
	sh tests/robustness/killed.sh ./llama tests/tiny $(KILLS)

# What valgrind says of the tests
valgrind:
	sh tests/robustness/valgrind.sh

# Which lines and branches the tests reach (gcov); what compilers and analysers find
coverage:
	sh tests/tools/coverage.sh
analyze:
	sh tests/tools/analyze.sh

style: llama
	sh tests/tools/style.sh

# The names leave those of llama.cpp alone: libllamac, llamac.pc, llamac/llama.h
install: llama build/llama.1 build/libllamac.a build/$(SHARED)
	install -d '$(DESTDIR)$(BINDIR)' '$(DESTDIR)$(MANDIR)/man1' '$(DESTDIR)$(LIBDIR)/pkgconfig' '$(DESTDIR)$(INCLUDEDIR)/llamac'
	install -m 755 llama '$(DESTDIR)$(BINDIR)/llama'
	install -m 644 build/llama.1 '$(DESTDIR)$(MANDIR)/man1/llama.1'
	install -m 644 llama.h '$(DESTDIR)$(INCLUDEDIR)/llamac/llama.h'
	install -m 644 build/libllamac.a '$(DESTDIR)$(LIBDIR)/libllamac.a'
	install -m 755 build/$(SHARED) '$(DESTDIR)$(LIBDIR)/$(SHARED)'
	ln -sf $(SHARED) '$(DESTDIR)$(LIBDIR)/$(SHARED_LINK)'
	printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$(LIBDIR)' 'includedir=$(INCLUDEDIR)' '' \
	    'Name: llamac' 'Description: LLaMA on a CPU, from the files Meta shipped' 'Version: $(VERSION)' \
	    'Cflags: -I$${includedir} -I$${includedir}/llamac' 'Libs: -L$${libdir} -lllamac' 'Libs.private: -pthread -lm $(OMP)' | \
	    sed 's|^\([a-z]*\)=$(PREFIX)/|\1=$${prefix}/|' >'$(DESTDIR)$(LIBDIR)/pkgconfig/llamac.pc'

uninstall:
	rm -f '$(DESTDIR)$(BINDIR)/llama' '$(DESTDIR)$(MANDIR)/man1/llama.1' '$(DESTDIR)$(INCLUDEDIR)/llamac/llama.h' '$(DESTDIR)$(LIBDIR)/libllamac.a' \
	    '$(DESTDIR)$(LIBDIR)/$(SHARED)' '$(DESTDIR)$(LIBDIR)/$(SHARED_LINK)' '$(DESTDIR)$(LIBDIR)/pkgconfig/llamac.pc'
	-rmdir '$(DESTDIR)$(INCLUDEDIR)/llamac'

# The files of the last commit, with its time or SOURCE_DATE_EPOCH: then of a commit without a name, made at that time
NOBODY = GIT_AUTHOR_NAME=- GIT_AUTHOR_EMAIL=- GIT_COMMITTER_NAME=- GIT_COMMITTER_EMAIL=-
DATED = $(if $(SOURCE_DATE_EPOCH),$(shell export $(NOBODY) GIT_AUTHOR_DATE='$(SOURCE_DATE_EPOCH) +0000' \
    GIT_COMMITTER_DATE='$(SOURCE_DATE_EPOCH) +0000'; git commit-tree -m dist 'HEAD^{tree}'),HEAD)
dist:
	mkdir -p build
	git archive --prefix=llama.c-$(VERSION)/ -o build/llama.c-$(VERSION).tar.gz $(DATED)

clean:
	rm -rf build llama llama.exe llama-mpi

help:
	@echo 'make               the command ./llama (OPENMP=1: the threads of OpenMP)'
	@echo 'make static        the same without shared libraries (CC=musl-gcc: with musl; CC=x86_64-w64-mingw32-gcc: llama.exe)'
	@echo 'make mpi           ./llama-mpi, for several machines; needs MPI (MPICC=mpicc)'
	@echo 'make demo          a story by our own tiny model'
	@echo 'make book          the annotated source: build/book/index.html (python3)'
	@echo 'make test          the tests, in a minute; need nothing but a compiler'
	@echo 'make check         the tests at full length, and the slow ones: every way to build, Python references, style'
	@echo 'make conformance   the goldens, where their data are (CONFORMANCE=FILE.tar.xz)'
	@echo 'make bits          one SHA-256 from every build, where the data are'
	@echo 'make bench         speed against this machine (MODEL=folder, BENCH="-t 1 -r 9 -n 1,8,512 --json", PEER="command")'
	@echo 'make fuzz          fuzz the parsers for SECONDS=60 each, or some: TARGETS="gguf pth" (clang)'
	@echo 'make faults        every allocation and system call failed (gcc, glibc)'
	@echo 'make soak          100,000 tokens, 10,000 models opened: nothing grows'
	@echo 'make killed        kill -9 while a prompt cache is written'
	@echo 'make valgrind      the tests under valgrind'
	@echo 'make coverage      lines and branches the tests reach'
	@echo 'make analyze       gcc -fanalyzer, -Wconversion, clang-tidy, cppcheck'
	@echo 'make style         rooms: what each file may hold and call'
	@echo 'make install       to PREFIX=/usr/local, under DESTDIR; make uninstall'
	@echo 'make dist          build/llama.c-$(VERSION).tar.gz'
	@echo 'make clean'

.PHONY: all static mpi demo book test check conformance bits bench fuzz faults soak killed valgrind coverage analyze style install uninstall dist clean help FORCE
