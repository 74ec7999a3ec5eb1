//! Starts have a group beside the tenants', with a group for each tenant below it, and more CPU weight than VMs that run: what a VM's start
//! waits for is then other starts, not other tenants' busy guests. A tenant has one start at a time, and what takes long leaves.
//!
//! QEMU is there until its guest runs, where the hierarchy that counts CPU time is one by itself, as of version 1. Of version 2 a process has
//! one group for all, so that QEMU is in its VM's from the beginning.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{At, COMMANDS, Cgroup, QEMU, create, pass_on, threads, write};
use crate::limits;

/// The group of all tenants' starts.
const STARTS: &str = "starts";

impl Cgroup {
    /// Moves this process, which is to have one thread, to where a start waits for its turn.
    pub(crate) fn enter_before_start(&self) -> io::Result<()> {
        match &self.at {
            At::V2 { .. } => {
                self.prepare()?;
                self.join_in(&self.make_starts()?, Path::new(""))
            }
            At::V1(_) => self.enter_command(),
        }
    }

    /// Has this process be in the tenant's starts, where that takes no lock of the whole host's.
    pub(crate) fn enter_starts(&self) -> io::Result<()> {
        match &self.at {
            At::V2 { .. } => Ok(()),
            At::V1(_) => threads::go_to(self.make_starts()?),
        }
    }

    /// The group of the tenant's starts, below that of all tenants'.
    fn make_starts(&self) -> io::Result<PathBuf> {
        let tenant = self.counts_cpu();
        let (Some(group), Some(name)) = (tenant.parent(), tenant.file_name()) else {
            return Err(io::Error::other("a tenant's group has no name"));
        };
        let all = group.join(STARTS);
        create(&all)?;
        match &self.at {
            At::V2 { .. } => {
                pass_on(&all, &["cpu"])?;
                settle(&all, "cpu.weight", &limits::STARTS_WEIGHT.to_string())?;
            }
            At::V1(_) => {
                settle(&all, "cpu.shares", &(limits::STARTS_WEIGHT * 1024 / 100).to_string())?;
            }
        }
        let own = all.join(name);
        create(&own)?;
        Ok(own)
    }

    /// Moves QEMU-to-be of a new VM to the tenant's starts, where that is for CPU time alone.
    pub(crate) fn start_qemu(&self) -> io::Result<()> {
        match &self.at {
            At::V2 { .. } => Ok(()),
            // Where they are one hierarchy, it would be without its bounds meanwhile.
            At::V1([cpu, memory, pids]) if cpu == memory || cpu == pids => Ok(()),
            At::V1(_) => self.join_in(&self.make_starts()?, Path::new("")),
        }
    }

    /// Moves this process with all its threads from the starts to the tenant's commands. The kernel takes some 15 ms for that.
    pub(crate) fn leave_start(&self) -> io::Result<()> {
        let commands = self.counts_cpu().join(COMMANDS);
        create(&commands)?;
        if let At::V1(_) = &self.at {
            // No thread is to go back.
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
                    // It has ended, which is told elsewhere.
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                    // An earlier version's VM has no such group, and was in its own from its beginning.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    done => done,
                }
            }
        }
    }
}

/// Writes a value to a group's file, unless it is there already: each start does this, and the kernel takes a lock for each write.
fn settle(group: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = group.join(file);
    if fs::read_to_string(&path)?.trim_end() == value {
        return Ok(());
    }
    write(&path, value)
}
