// Reading much of a pipe, or of anything else that comes in small pieces, in one go.
#ifndef QCOW2_OS_PIPE_H_
#define QCOW2_OS_PIPE_H_

#include "core/span.h"
#include "os/result.h"

namespace qcow2 {

// Reads from the descriptor's own position until `buffer` is full, the input ends, nothing has come for a moment, or others
// should have the thread. The value is the bytes read; `ended` tells whether these were the last. Not on Windows.
OsResult readPipe(int fd, MutableBytes buffer, bool& ended);

}  // namespace qcow2

#endif  // QCOW2_OS_PIPE_H_
