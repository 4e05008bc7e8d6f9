/** The part of the helper (identity-helper.ts) that is about the network card: its address, and who looks after it. */
export const NETWORK = String.raw`# The first with a device behind it.
sub card {
  for my $path (in('/sys/class/net', qr/./)) {
    return substr $path, length '/sys/class/net/' if -e "$path/device" && (line("$path/type") // '') eq '1';
  }
  return;
}

# Asks the kernel about a card, or tells it (netdevice(7)): gives what stands behind its name then, or nothing.
sub netdevice {
  my ($what, $card, $told) = @_;
  socket my $any, 2, 2, 0 or return;
  my $request = pack 'a16 a24', $card, $told // '';
  ioctl $any, $what, $request or return;
  return substr $request, 16;
}

# SIOCGIFFLAGS, SIOCSIFFLAGS; IFF_UP is the lowest bit.
sub set_up {
  my ($card, $up) = @_;
  my $flags = netdevice(0x8913, $card) // return;
  return defined netdevice(0x8914, $card, pack 'S', unpack('S', $flags) & ~1 | $up);
}

# SIOCGIFADDR, SIOCSIFADDR with 0.0.0.0, as ifconfig does it.
sub flush_addresses {
  my ($card) = @_;
  my $left = 1000;
  while ($left-- && defined netdevice(0x8915, $card)) {
    netdevice(0x8916, $card, pack 'S x14', 2) // last;
  }
}

# DHCP clients that would go on with the old lease; systemd-networkd and NetworkManager drop theirs when the card goes down.
sub forget_lease {
  for my $file (in('/run', qr/^(?:dhclient|dhcpcd|udhcpc).*\.pid$/), in('/run/dhcpcd', qr/\.pid$/)) {
    my $pid = line($file) // '';
    kill KILL => $pid if runs($pid, qw(dhclient dhcpcd udhcpc));
  }
  unlink in('/var/lib/dhcp', qr/^dhclient.*\.lease/), map { in("/var/lib/$_", qr/\.lease/) } qw(dhclient dhcpcd NetworkManager);
}

# Where configuration is found by the card's address, it must find it after the next boot.
sub rename_mac {
  my ($old, $mac) = @_;
  my @files = ('/etc/network/interfaces', in('/etc/netplan', qr/\.yaml$/), in('/etc/udev/rules.d', qr/net/));
  push @files, in($_, qr/./) for '/etc/systemd/network', '/run/systemd/network', '/etc/network/interfaces.d',
    '/etc/NetworkManager/system-connections';
  for my $file (@files) {
    -f $file && !-l $file or next;
    my $text = text($file) // '';
    put($file, $text) if $text =~ s/\Q$old\E/$mac/gi;
  }
}

sub set_card {
  my ($mac) = @_;
  my $card = card();
  if (!defined $card) {
    die "it has no network card\n" if $mac ne '';
    return;
  }
  return if $mac eq '';
  # SIOCGIFHWADDR, SIOCSIFHWADDR: a family and the address.
  my ($family, $old) = unpack 'S H12', netdevice(0x8927, $card) // '';
  my $new = join '', split ':', $mac;
  flush_addresses($card);
  set_up($card, 0);
  netdevice(0x8924, $card, pack 'S H12', $family, $new);
  unpack('x2 H12', netdevice(0x8927, $card) // '') eq $new or die "the network card does not take another address\n";
  $old = join ':', unpack '(A2)6', $old;
  push @later, \&forget_lease, sub { rename_mac($old, $mac) };
}

# A message of D-Bus (its specification, "Message Protocol"): a header of fields, each at a multiple of eight, and a body.
sub message {
  my ($serial, $body, @fields) = @_;
  my $header = '';
  while (my ($code, $type, $value) = splice @fields, 0, 3) {
    $header .= "\0" x (-length($header) % 8) . pack 'C C a x', $code, 1, $type;
    $header .= $type eq 'g' ? pack 'C/a* x', $value : pack 'V/a* x', $value;
  }
  return pack('a C3 V3', 'l', 1, 0, 1, length $body, $serial, length $header) . $header . "\0" x (-length($header) % 8) . $body;
}

# As networkctl reconfigure, without starting it. Gives whether systemd-networkd says that it does so.
sub reconfigure {
  my ($index) = @_;
  socket my $bus, 1, 1, 0 or return;
  connect $bus, pack 'S a*', 1, "/run/dbus/system_bus_socket\0" or return;
  my @bus = (6, 's', 'org.freedesktop.DBus', 1, 'o', '/org/freedesktop/DBus', 2, 's', 'org.freedesktop.DBus');
  my @networkd = (6, 's', 'org.freedesktop.network1', 1, 'o', '/org/freedesktop/network1', 2, 's', 'org.freedesktop.network1.Manager');
  my $hello = message(1, '', @bus, 3, 's', 'Hello');
  my $call = message(2, pack('l', $index), @networkd, 3, 's', 'ReconfigureLink', 8, 'g', 'i');
  syswrite $bus, "\0AUTH EXTERNAL 30\r\nBEGIN\r\n$hello$call" or return;
  my $said = '';
  vec(my $readable = '', fileno $bus, 1) = 1;
  while (select(my $now = $readable, undef, undef, 5) > 0) {
    sysread $bus, $said, 65536, length $said or return;
    $said =~ s/^.*?\n// or next if $said !~ /^l/;
    # Replies name the serial they are for (field 5); type 2 is a return, 3 an error.
    while ($said =~ /^l(.)/s && length $said >= 16) {
      my ($body, undef, $fields) = unpack 'x4 V3', $said;
      my $whole = 16 + ($fields + 7 & ~7) + $body;
      last if length $said < $whole;
      my $one = substr $said, 0, $whole, '';
      return ord $1 == 2 if index($one, pack 'C C a x V', 5, 1, 'u', 2) >= 0;
    }
  }
  return;
}

sub join_network {
  my $card = card() // die "it has no network card\n";
  my $index = line("/sys/class/net/$card/ifindex");
  my $managed = text("/run/systemd/netif/links/$index") // '';
  if ($managed =~ /^ADMIN_STATE=(?!unmanaged$)/m && reconfigure($index)) {
    set_up($card, 1) or die "the network card cannot be brought up\n";
  } else {
    shell('the network card cannot be brought up', $join, 'hatch-join');
  }
}
`;
