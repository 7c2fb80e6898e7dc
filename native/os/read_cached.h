// Reading what the page cache has, without ever waiting for the device: for small reads on the main thread, where
// a trip through the thread pool costs many times the read itself. Linux only.
#ifndef QCOW2_OS_READ_CACHED_H_
#define QCOW2_OS_READ_CACHED_H_

#include <cstdint>

#include "core/span.h"
#include "os/result.h"

namespace qcow2 {

// Fills `buffer` from `offset` on. Done with 1 when all of it was in the cache; with 0 when it was not, or the file
// ends in it: the buffer then holds garbage.
OsResult readCached(int fd, int64_t offset, MutableBytes buffer);

}  // namespace qcow2

#endif  // QCOW2_OS_READ_CACHED_H_
