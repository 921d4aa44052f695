// Streams of bytes: an open file, a spooled copy of one, and what a packed file holds.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/spool.h"

namespace data {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Fills the beginning of `bytes` and returns how much; 0 only at the end. Throws Error(data).
  virtual std::size_t read(std::span<std::byte> bytes) = 0;
};

// `name`: a path, or "-" for standard input. `poll` is called at least ten times a second while the source
// has nothing to give, and may throw. Throws Error(data) if there is no such file, it may not be read or it
// is a folder.
std::unique_ptr<ByteSource> open_file(const std::string& name, std::function<void()> poll);

// The bytes of a flushed spool, which must outlive the source.
std::unique_ptr<ByteSource> open_spool(const SpoolFile&);

// What `source` gives, all of which is appended to `copy`. Throws Error(io) too.
std::unique_ptr<ByteSource> copying(std::unique_ptr<ByteSource> source, SpoolFile& copy);

// What a gzip file holds: all members (RFC 1952 2.2); zero bytes after the last are padding, others are
// ignored with a call of `warn`. Throws Error(data) with name and offset for a wrong CRC, damaged data and an
// early end.
std::unique_ptr<ByteSource> gunzip(std::unique_ptr<ByteSource>, std::string name,
                                   std::function<void(std::string)> warn);

// What a bzip2 file holds: all streams, each block decoded by one of `threads` threads (1: by the caller).
// What is behind the last stream: as gunzip(). Throws Error(data) with name and offset.
std::unique_ptr<ByteSource> bunzip2(std::unique_ptr<ByteSource>, std::string name, int threads,
                                    std::function<void(std::string)> warn);

// What a Zstandard file holds, all frames, and what an xz file holds, all streams. Throw Error(data) with
// name and offset, and where the library was not there when this was built; Error(memory) for what needs over
// 128 MiB.
std::unique_ptr<ByteSource> unzstd(std::unique_ptr<ByteSource>, std::string name);
std::unique_ptr<ByteSource> unxz(std::unique_ptr<ByteSource>, std::string name);

// What `source` gives, read a few pieces ahead by a thread of its own: unpacking is the longest task of all.
// An exception of the source comes out of read() behind the bytes before it. `closed` becomes true when the
// result is destroyed: a source that waits must look at it and throw. `at_end` is called, once, by the read()
// that returns 0.
std::unique_ptr<ByteSource> read_ahead(std::unique_ptr<ByteSource> source,
                                       std::shared_ptr<std::atomic<bool>> closed,
                                       std::function<void()> at_end);

// `head`, then what `rest` gives.
std::unique_ptr<ByteSource> prepend(std::vector<std::byte> head, std::unique_ptr<ByteSource> rest);

}  // namespace data
