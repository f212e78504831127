/** A node of a PromQL expression, as Prometheus's `/api/v1/parse_query` gives it. */
export interface Expression {
  readonly type: string;
  /** Of a selector: the metric. */
  readonly name?: string;
  readonly matchers?: readonly { readonly name: string; readonly value: string }[];
  readonly grouping?: readonly string[];
  readonly matching?: { readonly labels: readonly string[]; readonly include: readonly string[] } | null;
  readonly [child: string]: unknown;
}

/** What an expression asks of the metrics: names, and labels with the metrics that may have them. */
export interface Asked {
  readonly metrics: ReadonlySet<string>;
  /** A label by the metrics below the place where it is named: at least one of them must have it. */
  readonly labels: readonly { readonly label: string; readonly of: readonly string[] }[];
}

/** Everything that an expression asks for, at any depth. */
export function asked(node: Expression): Asked {
  const below = children(node).map(asked);
  const metrics = new Set(below.flatMap((child) => [...child.metrics]));
  const matchers = node.matchers ?? [];
  const own = matchers.filter(({ name }) => name !== "__name__").map(({ name }) => name);
  if (node.matchers !== undefined) metrics.add(node.name ?? "");
  const named = [
    ...own,
    ...(node.grouping ?? []),
    ...(node.matching?.labels ?? []),
    ...(node.matching?.include ?? []),
  ];
  return {
    metrics,
    labels: [
      ...below.flatMap((child) => child.labels),
      ...named.map((label) => ({ label, of: [...metrics] })),
    ],
  };
}

function children(node: Expression): Expression[] {
  return Object.entries(node).flatMap(([key, value]) => {
    if (key === "matchers" || key === "matching" || key === "func") return [];
    return (Array.isArray(value) ? (value as unknown[]) : [value]).filter(isExpression);
  });
}

function isExpression(value: unknown): value is Expression {
  return typeof value === "object" && value !== null && "type" in value;
}
