// Windows: Node-API is found in the running program, whatever its name (node.exe, Electron, a renamed copy).
#ifdef _WIN32
#include <windows.h>

#include <delayimp.h>

#include <cstring>

namespace {

FARPROC WINAPI findHost(unsigned event, PDelayLoadInfo info) {
  if (event != dliNotePreLoadLibrary || _stricmp(info->szDll, "node.exe") != 0) return nullptr;
  return reinterpret_cast<FARPROC>(GetModuleHandleW(nullptr));
}

}  // namespace

// The name under which the delay-load helper looks for it.
#ifdef _MSC_VER
extern "C" const PfnDliHook __pfnDliNotifyHook2 = findHost;
#else
extern "C" PfnDliHook __pfnDliNotifyHook2 = findHost;
#endif
#endif
