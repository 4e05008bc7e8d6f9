import type { GuestFile } from './guest-file.ts';

/** Its name is part of two programs and a unit. */
const RUNTIME = '/run/hatch-cloud-init';

const NOT_DISABLED = `ConditionKernelCommandLine=!cloud-init=disabled
ConditionPathExists=!/etc/cloud/cloud-init.disabled
`;

/**
 * cloud-init 22.4 starts Python and loads all its modules once in each of its four stages: 3.5 s of emulated processor each
 * time, some 0.2 s of a real one. Here one process loads them once and forks for each stage (later versions of cloud-init
 * do alike). Each stage is still its own unit, which asks that process and waits; if it is not there, the stage runs as the
 * package has it.
 */
const loadedOnce: readonly GuestFile[] = [
  {
    path: '/usr/lib/hatch/cloud-init-loaded',
    executable: true,
    content: `#!/usr/bin/python3
# Loads cloud-init once and forks for each of its stages. A stage's lock file is locked until the stage is over, or until
# this process is no more; the file beside it says how the stage ended.
import fcntl
import gc
import os
import socket
import sys
import traceback

RUNTIME = "${RUNTIME}"
STAGES = {
    "local": ["init", "--local"],
    "network": ["init"],
    "config": ["modules", "--mode=config"],
    "final": ["modules", "--mode=final"],
}


def run_stage(args, main):
    code = 1
    try:
        code = main(["/usr/bin/cloud-init", *args]) or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve():
    os.makedirs(RUNTIME, mode=0o700, exist_ok=True)
    locks = {}
    for stage in STAGES:
        locks[stage] = open(f"{RUNTIME}/{stage}.lock", "w")
        fcntl.flock(locks[stage], fcntl.LOCK_EX)
    os.mkfifo(f"{RUNTIME}/request", 0o600)
    requests = open(f"{RUNTIME}/request", "r+b", buffering=0)

    from cloudinit.cmd.main import main
    import cloudinit.config.schema
    import cloudinit.distros.debian
    import cloudinit.sources.DataSourceNoCloud
    import cloudinit.sources.DataSourceNone

    gc.freeze()
    notify()
    while locks:
        stage = requests.readline().decode().strip()
        if stage not in locks:
            continue
        child = os.fork()
        if child == 0:
            requests.close()
            for lock in locks.values():
                lock.close()
            run_stage(STAGES[stage], main)
        _, status = os.waitpid(child, 0)
        with open(f"{RUNTIME}/{stage}.code", "w") as result:
            result.write(f"{os.waitstatus_to_exitcode(status) & 255}\\n")
        locks.pop(stage).close()
        if stage == "final":
            return


def notify():
    address = os.environ.pop("NOTIFY_SOCKET", None)
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect("\\0" + address[1:] if address.startswith("@") else address)
            sock.send(b"READY=1")


serve()
`,
  },
  {
    path: '/usr/lib/hatch/cloud-init-stage',
    executable: true,
    content: `#!/bin/sh
# Has one stage of cloud-init done by the process that has it loaded, or does it here when there is none. The first word
# is the stage's name, the rest what cloud-init calls it.
stage=$1
shift
dir=${RUNTIME}
if [ -p "$dir/request" ] && ! flock --shared --nonblock "$dir/$stage.lock" true; then
  # Opened for reading too, so that this never waits for a reader that has died.
  echo "$stage" 1<> "$dir/request"
  flock --shared "$dir/$stage.lock" true
  if [ -e "$dir/$stage.code" ]; then
    read -r code < "$dir/$stage.code"
    exit "$code"
  fi
fi
exec /usr/bin/cloud-init "$@"
`,
  },
  {
    path: '/etc/systemd/system/hatch-cloud-init.service',
    content: `[Unit]
Description=cloud-init, loaded once for all its stages
${NOT_DISABLED}DefaultDependencies=no
After=systemd-remount-fs.service
Before=shutdown.target
Conflicts=shutdown.target

[Service]
Type=notify
ExecStart=/usr/lib/hatch/cloud-init-loaded
SyslogIdentifier=cloud-init
StandardOutput=journal+console
TimeoutSec=0
# As cloud-final.service has it: what a script of the user has started lives on.
KillMode=process
TasksMax=infinity
`,
  },
];

const stages: readonly GuestFile[] = [
  {
    path: '/etc/systemd/system/cloud-init-local.service',
    content: `# As the package has it, but without its place before the network: the network here is not cloud-init's to configure,
# so the lease is asked for while cloud-init starts.
[Unit]
Description=Initial cloud-init job (pre-networking)
${NOT_DISABLED}DefaultDependencies=no
Wants=hatch-cloud-init.service
After=systemd-remount-fs.service hatch-cloud-init.service
Before=shutdown.target
Before=sysinit.target
Conflicts=shutdown.target
RequiresMountsFor=/var/lib/cloud

[Service]
Type=oneshot
ExecStart=/usr/lib/hatch/cloud-init-stage local init --local
RemainAfterExit=yes
TimeoutSec=0
StandardOutput=journal+console
`,
  },
  stage('cloud-init', 'network init'),
  // SSH first: it is what people wait for.
  stage('cloud-config', 'config modules --mode=config', 'After=ssh.service\n'),
  stage('cloud-final', 'final modules --mode=final'),
];

function stage(unit: string, asks: string, more = ''): GuestFile {
  return {
    path: `/etc/systemd/system/${unit}.service.d/hatch.conf`,
    content: `[Unit]
${NOT_DISABLED}${more}
[Service]
ExecStart=
ExecStart=/usr/lib/hatch/cloud-init-stage ${asks}
`,
  };
}

/** cloud-init's settings and units. The generator that enables it costs more than it finds out here: its target is simply wanted. */
export const CLOUD_INIT_FILES: readonly GuestFile[] = [
  {
    // ssh_genkeytypes: an RSA key is seconds of emulated processor. locale: the one that is set already, so that nothing is to be made.
    path: '/etc/cloud/cloud.cfg.d/90_hatch.cfg',
    content: `datasource_list: [NoCloud, None]
network: {config: disabled}
manage_etc_hosts: true
locale: C.UTF-8
ssh_genkeytypes: [ed25519]
ssh_deletekeys: true
disable_root: true
growpart: {mode: "off"}
resize_rootfs: false
cloud_init_modules: [seed_random, bootcmd, write-files, disk_setup, mounts, set_hostname, update_hostname, update_etc_hosts, ca-certs, users-groups, ssh]
cloud_config_modules: [ssh-import-id, keyboard, locale, set-passwords, apt-pipelining, apt-configure, ntp, timezone, runcmd]
cloud_final_modules: [package-update-upgrade-install, write-files-deferred, puppet, chef, ansible, salt-minion, scripts-vendor, scripts-per-once, scripts-per-boot, scripts-per-instance, scripts-user, phone-home, final-message, power-state-change]
`,
  },
  ...loadedOnce,
  ...stages,
];
