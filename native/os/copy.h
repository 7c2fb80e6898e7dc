// Copying between files inside the kernel, which shares extents where the file system can. Linux only;
// elsewhere kUnsupported, and the caller reads and writes.
#ifndef QCOW2_OS_COPY_H_
#define QCOW2_OS_COPY_H_

#include <cstdint>

#include "os/result.h"

namespace qcow2 {

// Copies `length` bytes; the value is how many were copied, fewer than asked only where the source ends.
// kUnsupported when the kernel refuses this pair of files before the first byte.
OsResult copyRange(int from, int64_t from_offset, int to, int64_t to_offset, int64_t length);

}  // namespace qcow2

#endif  // QCOW2_OS_COPY_H_
