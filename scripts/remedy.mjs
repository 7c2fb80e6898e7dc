// What to install where the addon cannot be compiled, for the system at hand.

const families = {
  debian: 'apt-get install build-essential cmake libdeflate-dev libzstd-dev libisal-dev',
  rhel: 'dnf install gcc-c++ make cmake libdeflate-devel libzstd-devel',
  fedora: 'dnf install gcc-c++ make cmake libdeflate-devel libzstd-devel',
  suse: 'zypper install gcc-c++ make cmake libdeflate-devel libzstd-devel',
  alpine: 'apk add build-base cmake linux-headers libdeflate-dev zstd-dev',
  arch: 'pacman -S base-devel cmake libdeflate zstd',
};
const platforms = {
  darwin: 'xcode-select --install && brew install cmake libdeflate zstd',
  win32: 'install "Desktop development with C++" of the Visual Studio Build Tools (it brings cmake along)',
};

/**
 * @param {string} platform `process.platform`
 * @param {string} osRelease content of /etc/os-release; empty where there is none
 */
export function remedy(platform, osRelease) {
  if (platform !== 'linux')
    return (
      platforms[platform] ?? 'install cmake and a C++17 compiler with the package manager of your system'
    );
  // The system's own name, then those it is like.
  const names = Array.from(osRelease.matchAll(/^(ID|ID_LIKE)="?([^"\n]*)"?$/gm))
    .sort(([, a], [, b]) => a.length - b.length)
    .flatMap(([, , list]) => list.split(' '));
  const known = names.find((name) => Object.hasOwn(families, name));
  return known === undefined
    ? Object.entries(families)
        .map(([family, command]) => `${family}: ${command}`)
        .join('\n  ')
    : families[known];
}
