// A table of errno names: the C library's own is too young to rely on.
#include "os/error_name.h"

#include <cerrno>

namespace qcow2 {

namespace {

struct Name {
  int error;
  const char* name;
};

constexpr Name kNames[] = {
    {EACCES, "EACCES"},       {EAGAIN, "EAGAIN"}, {EBADF, "EBADF"},         {EDEADLK, "EDEADLK"},
    {EFBIG, "EFBIG"},         {EINTR, "EINTR"},   {EINVAL, "EINVAL"},       {EIO, "EIO"},
    {EISDIR, "EISDIR"},       {ENODEV, "ENODEV"}, {ENOLCK, "ENOLCK"},       {ENOMEM, "ENOMEM"},
    {ENOSPC, "ENOSPC"},       {ENXIO, "ENXIO"},   {EOVERFLOW, "EOVERFLOW"}, {EPERM, "EPERM"},
    {EPIPE, "EPIPE"},         {EROFS, "EROFS"},   {ESPIPE, "ESPIPE"},       {ETXTBSY, "ETXTBSY"},
#ifdef EDQUOT
    {EDQUOT, "EDQUOT"},
#endif
#ifdef ESTALE
    {ESTALE, "ESTALE"},
#endif
#ifdef ETIMEDOUT
    {ETIMEDOUT, "ETIMEDOUT"},
#endif
};

}  // namespace

std::string errorName(int error) {
  for (const Name& known : kNames) {
    if (known.error == error) return known.name;
  }
  return "Unknown system error " + std::to_string(error);
}

}  // namespace qcow2
