/** The last /24 of an IPv4 subnet (the last quarter of a smaller one): Docker hands out addresses from the start. */
export function lastAddresses(subnet: string): string {
  const [address = "", length = ""] = subnet.split("/");
  const prefix = Math.max(24, Math.min(30, Number(length) + 2));
  const base = address.split(".").reduce((sum, octet) => sum * 256 + Number(octet), 0);
  const last = base + 2 ** (32 - Number(length)) - 2 ** (32 - prefix);
  return `${[24, 16, 8, 0].map((shift) => Math.floor(last / 2 ** shift) % 256).join(".")}/${prefix}`;
}
