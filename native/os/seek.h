// Where a sparse file has data and where holes. Linux only; elsewhere kUnsupported, and the caller takes the
// whole file for data. Both move the descriptor's own file position, which positional reads and writes do not
// use.
#ifndef QCOW2_OS_SEEK_H_
#define QCOW2_OS_SEEK_H_

#include <cstdint>

#include "os/result.h"

namespace qcow2 {

// The value when there is nothing to find: only a hole follows, or the offset is at or past the end.
constexpr int64_t kSeekNothing = -1;

// The first offset at or after `offset` that may hold data.
OsResult seekData(int fd, int64_t offset);

// The first offset at or after `offset` that is in a hole; the end of the file counts as one.
OsResult seekHole(int fd, int64_t offset);

}  // namespace qcow2

#endif  // QCOW2_OS_SEEK_H_
