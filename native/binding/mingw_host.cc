// Windows, by mingw-w64: Node-API is found in the running program, whatever its name (node.exe, Electron, a renamed copy).
// For Microsoft's compiler cmake-js brings the same.
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
extern "C" PfnDliHook __pfnDliNotifyHook2 = findHost;
