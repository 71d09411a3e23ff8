//! What the system lets this process have. Its memory is that of the machine, or less where control
//! groups (cgroups) limit it, with which systemd and containers bound processes.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

/// From this value on, bytes, a limit means that there is none: version 1 of control groups writes
/// a number close to 2⁶³.
const NO_LIMIT: u64 = 1 << 60;

/// The files of a control group that limit its memory: two of version 2, of which the lower counts,
/// because beyond `memory.high` the system slows the process down until it hardly works; and one of
/// version 1.
const LIMIT_FILES: [&str; 3] = ["memory.max", "memory.high", "memory.limit_in_bytes"];

/// The memory that the process may have, bytes. `None` where no limit is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The memory that it has together with other processes: that of the machine, or the limit of a
    /// control group above its own, whichever is less.
    pub shared: Option<u64>,
    /// The limit of its own control group.
    pub own: Option<u64>,
}

impl Limits {
    /// What this process may have.
    pub fn read() -> Limits {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let groups = control_groups(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"));
        let limits = limits_of(&groups, |path| fs::read_to_string(path).ok());
        Limits {
            shared: machine().into_iter().chain(limits.shared).min(),
            own: limits.own,
        }
    }

    /// The lower of both.
    pub fn lowest(&self) -> Option<u64> {
        self.shared.into_iter().chain(self.own).min()
    }
}

/// The descriptors that this process may have, if there is a limit.
pub fn descriptors() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// The bytes that are free on the disk of a folder, for others than root. Only the folders above it
/// must be accessible.
///
/// # Errors
/// Those of the system.
pub fn free_disk(folder: &Path) -> std::io::Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// The machine's memory, bytes. A container's /proc/meminfo may tell less than the system call, so
/// it is read first. The unit's sandbox hides the file, so the system call is needed, too.
fn machine() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok();
    meminfo.and_then(|text| total_of(&text)).or_else(|| {
        let info = rustix::system::sysinfo();
        // The type of this field depends on the processor.
        #[allow(clippy::useless_conversion)]
        let units = u64::from(info.totalram);
        Some(units.saturating_mul(u64::from(info.mem_unit))).filter(|bytes| *bytes > 0)
    })
}

/// The machine's memory in the text of /proc/meminfo, bytes.
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib.saturating_mul(1024))
}

/// The folders of the control groups that bound the memory of a process, its own first, then those
/// above it: for each hierarchy that is mounted. `cgroup` is the text of /proc/self/cgroup,
/// `mountinfo` that of /proc/self/mountinfo (proc(5)).
fn control_groups(cgroup: &str, mountinfo: &str) -> Vec<Vec<PathBuf>> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next()?, kind.nth(1)?);
        let is_memory = name == "cgroup" && options.split(',').any(|option| option == "memory");
        let version = match name {
            "cgroup2" => 2,
            _ if is_memory => 1,
            _ => return None,
        };
        let mut mount = mount.split(' ').skip(3);
        Some((version, mount.next()?, mount.next()?))
    });
    let folders = |(version, root, point): (u8, &str, &str)| {
        let own = cgroup.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let is_wanted = match version {
                2 => controllers.is_empty(),
                _ => controllers.split(',').any(|name| name == "memory"),
            };
            is_wanted.then_some(path)
        })?;
        // What is mounted may be a folder of the hierarchy. A group that isn't in it can't be seen.
        let within = Path::new(own).strip_prefix(root).unwrap_or(Path::new(""));
        let point = Path::new(point);
        let own = point.join(within);
        let all = own.ancestors().take_while(|path| path.starts_with(point));
        Some(all.map(Path::to_path_buf).collect())
    };
    mounts.filter_map(folders).collect()
}

/// The limits of such control groups. `read` is the text of a file, if there is one.
fn limits_of(groups: &[Vec<PathBuf>], read: impl Fn(&Path) -> Option<String>) -> Limits {
    let limit = |folder: &PathBuf| {
        let limits = LIMIT_FILES.iter().filter_map(|name| {
            let limit: u64 = read(&folder.join(name))?.trim().parse().ok()?;
            (limit < NO_LIMIT).then_some(limit)
        });
        limits.min()
    };
    let own = groups.iter().filter_map(|folders| folders.first());
    let above = groups.iter().flat_map(|folders| folders.iter().skip(1));
    Limits {
        own: own.filter_map(limit).min(),
        shared: above.filter_map(limit).min(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str =
        "24 1 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
    const V1: &str = "33 32 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
         34 32 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
         35 32 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
    const UNIT: &str = "0::/system.slice/session-file-server.service\n";

    fn limits(cgroup: &str, mountinfo: &str, files: &[(&str, &str)]) -> Limits {
        limits_of(&control_groups(cgroup, mountinfo), |path| {
            let file = files.iter().find(|(name, _)| Path::new(name) == path);
            file.map(|(_, text)| text.to_string())
        })
    }

    #[test]
    fn the_limit_of_a_unit_and_of_the_groups_above_it_are_found() {
        let slice = "/sys/fs/cgroup/system.slice";
        let unit = format!("{slice}/session-file-server.service");
        let (max, high) = (format!("{unit}/memory.max"), format!("{unit}/memory.high"));
        let above = format!("{slice}/memory.max");
        for (files, own, shared) in [
            (&[][..], None, None),
            (&[(&*max, "max\n"), (&*above, "max\n")], None, None),
            (&[(&*max, "268435456\n")], Some(256 << 20), None),
            (
                &[(&*max, "268435456\n"), (&*high, "134217728\n")],
                Some(128 << 20),
                None,
            ),
            (
                &[(&*max, "268435456\n"), (&*above, "1000\n")],
                Some(256 << 20),
                Some(1000),
            ),
            (
                &[("/sys/fs/cgroup/memory.max", "2000"), (&*above, "3000\n")],
                None,
                Some(2000),
            ),
            (&[(&*max, "not a number")], None, None),
        ] {
            assert_eq!(limits(UNIT, V2, files), Limits { shared, own }, "{files:?}");
        }
    }

    #[test]
    fn a_container_has_its_own_limit_at_the_root_of_what_it_sees() {
        let files = [("/sys/fs/cgroup/memory.max", "500")];
        let found = limits("0::/\n", V2, &files);
        assert_eq!((found.own, found.shared), (Some(500), None));
        // A process may be in a group outside of what the container sees.
        let found = limits("0::/../../other\n", V2, &files);
        assert_eq!(found.lowest(), Some(500));
    }

    #[test]
    fn limits_of_version_1_are_found_also_if_a_folder_of_it_is_mounted() {
        let path = "/sys/fs/cgroup/memory/docker/a1/memory.limit_in_bytes";
        let group = "9:name=systemd:/x\n4:memory:/docker/a1\n0::/\n";
        let found = limits(group, V1, &[(path, "700\n")]);
        assert_eq!(found.own, Some(700));
        let none = limits(group, V1, &[(path, "9223372036854771712\n")]);
        assert_eq!(none, Limits::default());
        let folder = V1.replacen(" / ", " /docker/a1 ", 1);
        let top = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
        assert_eq!(limits(group, &folder, &[(top, "900\n")]).own, Some(900));
    }

    #[test]
    fn without_control_groups_there_is_no_limit_and_the_machine_has_memory() {
        assert_eq!(limits("", "", &[]), Limits::default());
        assert_eq!(limits("0::/x\n", "broken", &[]), Limits::default());
        assert_eq!(
            total_of("MemTotal:         498092 kB\nMemFree: 1 kB\n"),
            Some(498_092 * 1024)
        );
        assert_eq!(total_of("nothing"), None);
        assert!(Limits::read().lowest().is_some_and(|bytes| bytes > 0));
    }
}
