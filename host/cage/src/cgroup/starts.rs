//! Starts have a group beside the tenants', with a group for each tenant below it, and more CPU weight than VMs that run: what a VM's start
//! waits for is then other starts, not other tenants' busy guests. A tenant has one start at a time, and a start leaves the group before it
//! does what takes long.
//!
//! With version 1, where CPU time has a hierarchy by itself, QEMU is in the starts until its guest runs. With version 2 a process has one
//! group for all controllers, so that QEMU is in its VM's group from the beginning.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{At, COMMANDS, Cgroup, QEMU, create, pass_on, threads, write};
use crate::limits;

/// The group of all tenants' starts.
const STARTS: &str = "starts";

impl Cgroup {
    /// Moves this process, which is to have one thread, to the group in which a start waits for its turn.
    pub(crate) fn enter_before_start(&self) -> io::Result<()> {
        match &self.at {
            At::V2 { .. } => {
                self.prepare()?;
                self.join_in(&self.make_starts()?, Path::new(""))
            }
            At::V1(_) => self.enter_command(),
        }
    }

    /// Moves this process to the tenant's starts, if the move takes no lock that all processes of the host share.
    pub(crate) fn enter_starts(&self) -> io::Result<()> {
        match &self.at {
            At::V2 { .. } => Ok(()),
            At::V1(_) => threads::go_to(self.make_starts()?),
        }
    }

    /// Makes the group of the tenant's starts, below that of all tenants' starts.
    fn make_starts(&self) -> io::Result<PathBuf> {
        let tenant = self.counts_cpu();
        let (Some(group), Some(name)) = (tenant.parent(), tenant.file_name()) else {
            return Err(io::Error::other("a tenant's group has no name"));
        };
        let all = group.join(STARTS);
        create(&all)?;
        if let At::V2 { .. } = &self.at {
            pass_on(&all, &["cpu"])?;
        }
        let (file, weight) = self.cpu_weight(limits::STARTS_WEIGHT);
        settle(&all, file, &weight)?;
        let own = all.join(name);
        create(&own)?;
        Ok(own)
    }

    /// Moves a new VM's process that becomes QEMU to the tenant's starts, if it moves for CPU time alone.
    pub(crate) fn start_qemu(&self) -> io::Result<()> {
        match &self.at {
            At::V2 { .. } => Ok(()),
            // Where the controllers share a hierarchy, QEMU would be without its other bounds meanwhile.
            At::V1([cpu, memory, pids]) if cpu == memory || cpu == pids => Ok(()),
            At::V1(_) => self.join_in(&self.make_starts()?, Path::new("")),
        }
    }

    /// Moves this process with all its threads from the starts to the tenant's commands, which takes the kernel some 15 ms.
    pub(crate) fn leave_start(&self) -> io::Result<()> {
        let commands = self.counts_cpu().join(COMMANDS);
        create(&commands)?;
        if let At::V1(_) = &self.at {
            // The threads are told first, so that none of them goes back to the starts.
            threads::go_to(commands.clone())?;
        }
        write(&commands.join("cgroup.procs"), "0")
    }

    /// Moves a QEMU whose guest runs to its VM's group.
    pub(crate) fn end_start(&self, vm: &str, qemu: u32) -> io::Result<()> {
        match &self.at {
            At::V2 { .. } => Ok(()),
            At::V1([cpu, ..]) => {
                let procs = cpu.join(vm).join(QEMU).join("cgroup.procs");
                match write(&procs, &qemu.to_string()) {
                    // QEMU has ended, which is reported elsewhere.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                    // A VM that an earlier version started has no such group, and was in its own group from its beginning.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    done => done,
                }
            }
        }
    }
}

/// Writes a value to a group's file, unless the file has it already: each start does this, and the kernel takes a lock for each write.
fn settle(group: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = group.join(file);
    if fs::read_to_string(&path)?.trim_end() == value {
        return Ok(());
    }
    write(&path, value)
}
