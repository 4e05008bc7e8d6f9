import type { VmMetrics } from '../../contract/metrics.ts';
import type { Vm } from '../../contract/vm.ts';
import { showIdle } from './show-idle.ts';
import { formatFields, formatTable } from './table.ts';
import { age, duration, formatBytes, formatMib, formatPairs } from './words.ts';

/** The VMs as a table, or what to do when there are none; `filtered`: of those that were asked for. `now` in milliseconds. */
export function showVms(vms: readonly Vm[], now: number, { filtered = false } = {}): string {
  if (vms.length === 0) return filtered ? 'No such VMs.' : 'No VMs yet. Make one: hatch vm create';
  const ofAll = vms.some(({ account_id: account }) => account !== undefined);
  return formatTable(
    [
      ...(ofAll ? ['ACCOUNT'] : []),
      'NAME',
      'ID',
      'STATE',
      'CPUS',
      'MEMORY',
      'IP',
      'SSH PORT',
      'IMAGE',
      'AGE',
    ],
    vms.map((vm) => [
      ...(ofAll ? [vm.account_id] : []),
      vm.name,
      vm.id,
      stateOf(vm),
      vm.vcpu_count,
      formatMib(vm.mem_mib),
      vm.guest_ip,
      vm.ssh_port,
      vm.image_id,
      age(vm.created_at, now),
    ]),
  );
}

/** All that is known of one VM, a line each. */
export function showVm(vm: Vm, now: number): string {
  const { idle } = vm;
  return formatFields({
    Name: vm.name,
    Id: vm.id,
    State: stateOf(vm),
    Reason:
      vm.state_reason &&
      `${vm.state_reason.message} (${vm.state_reason.code}, ${age(vm.state_reason.at, now)} ago)`,
    Image: vm.image_id,
    Template: vm.template_id,
    'Copy of': vm.parent_snapshot_id,
    CPUs: vm.vcpu_count,
    Memory: formatMib(vm.mem_mib),
    Disk: vm.disk_mib === undefined ? undefined : formatMib(vm.disk_mib),
    IP: vm.guest_ip ?? (vm.enable_network ? undefined : 'no network'),
    MAC: vm.guest_mac,
    'SSH port': vm.ssh_port,
    Labels: formatPairs(vm.labels),
    Idle: idle && showIdle(idle),
    Autostart: vm.autostart === true ? 'yes' : undefined,
    'Boot args': vm.boot_args,
    Hypervisor: vm.vmm && (vm.accel ? `${vm.vmm} (${vm.accel})` : vm.vmm),
    Host: vm.host,
    Made: `${age(vm.created_at, now)} ago`,
    Ready: vm.ready_at && `${age(vm.ready_at, now)} ago`,
  });
}

/** What a VM has used, a line each. */
export function showMetrics({ uptime_seconds, cpu_seconds, memory, block, net }: VmMetrics): string {
  const packets = (bytes: number, count: number): string => `${formatBytes(bytes)} (${count} packets)`;
  return formatFields({
    Awake: duration(uptime_seconds),
    'CPU time': `${cpu_seconds} s`,
    Memory: `${formatBytes(memory.resident_bytes)} on the host, for a guest of ${formatMib(memory.mem_mib)}`,
    'Disk read': formatBytes(block.read_bytes),
    'Disk written': formatBytes(block.written_bytes),
    Received: net && packets(net.received_bytes, net.received_packets),
    Sent: net && packets(net.sent_bytes, net.sent_packets),
    Network: net ? undefined : 'none',
  });
}

/** What became of a VM, in a sentence, and how to go in; `keyless`: where nobody was given a key. */
export function showOutcome(vm: Vm, { keyless = false } = {}): string {
  const name = vm.name ?? vm.id;
  const where = vm.guest_ip ? ` at ${vm.guest_ip}` : '';
  const way = keyless
    ? `\nNo SSH key lets anybody in: there is none in ~/.ssh, and none was named with --ssh-key. Run commands: hatch vm exec ${name} -- id`
    : `\nGo in: hatch vm ssh ${name}`;
  const how = vm.state === 'running' && vm.ssh_port !== undefined ? way : '';
  const who = vm.name ? `${vm.name} (${vm.id})` : vm.id;
  const forced = vm.state === 'stopped' && vm.state_reason ? ` ${vm.state_reason.message}` : '';
  return `VM ${who} is ${vm.ready && vm.state === 'running' ? 'ready' : vm.state}${where}.${forced}${how}`;
}

/** The state, with what is under way, and whether a running guest has not answered yet. */
function stateOf(vm: Vm): string {
  if (vm.operation !== undefined) return `${vm.state} (${vm.operation})`;
  return vm.state === 'running' && !vm.ready ? 'running (booting)' : vm.state;
}
