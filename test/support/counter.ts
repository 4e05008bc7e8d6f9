/** Where a guest's counter keeps how far it has come. */
const COUNT_FILE = '/root/count';

const PROGRAM = `while (1) {
  open F, ">${COUNT_FILE}.new"; print F ++$i, "\\n"; close F;
  rename "${COUNT_FILE}.new", "${COUNT_FILE}";
  select undef, undef, undef, 0.1;
}`.replaceAll(/\s*\n\s*/g, ' ');

/**
 * The command that has a guest count, ten times a second. One process for good: each that a shell would start keeps an emulated
 * processor busy for half of that time, and six guests of it two real ones.
 */
export const START_COUNTING = `systemd-run --unit=counter perl -e '${PROGRAM.replaceAll('$', '$$$$')}'`;
