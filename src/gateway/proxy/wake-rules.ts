import type { WakeRules } from '../../model/route.ts';
import { allowSources } from '../ssh/sources.ts';

/** What of a request the rules of a route are about. */
export interface WakeRequest {
  readonly method: string;
  /** Its path, without a query. */
  readonly path: string;
  readonly from: string;
  readonly userAgent: string | undefined;
}

/** Who looks at everything and waits for nothing: crawlers, scanners, and checks whether a service is up. */
const CRAWLERS_AND_CHECKS =
  /\b(bot|crawler|spider|slurp|archiver|scanner|masscan|zgrab|nmap|nikto|nuclei|censys\w*|shodan|expanse|healthcheck|health-check|kube-probe|googlehc|elb-healthchecker|uptimerobot|pingdom\w*|statuscake|site24x7|blackbox[ -]exporter|prometheus)\b|bot\b/i;

/** Why a request wakes nothing, as the end of a sentence; undefined when it may. All that the rules say must hold. */
export function whyNotWake(rules: WakeRules | null, asking: WakeRequest): string | undefined {
  if (CRAWLERS_AND_CHECKS.test(asking.userAgent ?? ''))
    return 'crawlers, scanners and health checks wake nothing';
  if (rules?.methods && !rules.methods.includes(asking.method))
    return `only ${rules.methods.join(', ')} wakes it`;
  if (rules?.paths && !rules.paths.some((pattern) => matches(pattern, asking.path)))
    return 'a request for this path does not wake it';
  if (rules?.cidrs && !allowSources(rules.cidrs)(asking.from))
    return 'a request from your network does not wake it';
  return undefined;
}

/** `*` stands for any characters, slashes too. Compared piece by piece: a pattern of many stars costs no more than its length. */
function matches(pattern: string, path: string): boolean {
  const [first = '', ...rest] = pattern.split('*');
  const last = rest.pop();
  if (last === undefined) return pattern === path;
  if (!path.startsWith(first)) return false;
  let at = first.length;
  for (const piece of rest) {
    const found = path.indexOf(piece, at);
    if (found < 0) return false;
    at = found + piece.length;
  }
  return path.length - last.length >= at && path.endsWith(last);
}
