import { mkdirSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { join } from "node:path";
import { stringify } from "yaml";
import { httpProbe, type ProcessGroup } from "../../../system/process";
import type { RulesFile } from "../../gitops/monitoring/tree";
import type { Expression } from "./expression";

/** Something that Prometheus scrapes. */
export interface ScrapeJob {
  readonly job: string;
  /** The labels that the Prometheus Operator gives a target. */
  readonly labels: Readonly<Record<string, string>>;
  /** `host:port`. */
  readonly address: string;
  readonly honorLabels?: boolean;
  /** `metric_relabel_configs`. */
  readonly metricRelabelings?: readonly unknown[];
}

/** A series and its value. */
export interface Sample {
  readonly metric: Readonly<Record<string, string>>;
  readonly value: readonly [number, string];
}

/** An alert that is pending or firing. */
export interface ActiveAlert {
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

/** A real Prometheus on this machine that scrapes every second, with rules. */
export class Prometheus {
  private constructor(private readonly url: string) {}

  /** @param directory absolute path for its configuration and data */
  static async start(
    group: ProcessGroup,
    command: string,
    directory: string,
    jobs: readonly ScrapeJob[],
    rules: ReadonlyMap<string, RulesFile>,
  ): Promise<Prometheus> {
    mkdirSync(join(directory, "rules"), { recursive: true });
    for (const [name, file] of rules)
      writeFileSync(join(directory, "rules", `${name}.yaml`), stringify(file, { lineWidth: 0 }));
    const config = join(directory, "prometheus.yaml");
    writeFileSync(
      config,
      stringify({
        global: { scrape_interval: "1s", scrape_timeout: "1s", evaluation_interval: "1s" },
        rule_files: [join(directory, "rules", "*.yaml")],
        scrape_configs: jobs.map(({ job, labels, address, honorLabels, metricRelabelings }, index) => ({
          job_name: `${job}-${index}`,
          honor_labels: honorLabels ?? false,
          static_configs: [{ targets: [address], labels: { job, ...labels } }],
          metric_relabel_configs: metricRelabelings ?? [],
        })),
      }),
    );
    const address = `127.0.0.1:${await freePort()}`;
    const prometheus = group.start({
      name: "prometheus",
      command,
      args: [
        `--config.file=${config}`,
        `--storage.tsdb.path=${join(directory, "data")}`,
        `--web.listen-address=${address}`,
        "--log.level=warn",
      ],
    });
    await prometheus.ready(httpProbe({ url: `http://${address}/-/ready` }));
    return new Prometheus(`http://${address}/api/v1`);
  }

  /** The value of an expression now. @throws when Prometheus refuses it */
  async query(expression: string): Promise<Sample[]> {
    return (await this.ask<{ result: Sample[] }>("query", { query: expression })).result;
  }

  async parse(expression: string): Promise<Expression> {
    return this.ask<Expression>("parse_query", { query: expression });
  }

  /** Every label that some series of a metric has; none when there is no such metric. */
  async labelsOf(metric: string): Promise<Set<string>> {
    const series = await this.ask<Record<string, string>[]>("series", { "match[]": metric });
    return new Set(series.flatMap((labels) => Object.keys(labels)));
  }

  async alerts(): Promise<ActiveAlert[]> {
    return (await this.ask<{ alerts: ActiveAlert[] }>("alerts", {})).alerts;
  }

  /** Rules that could not be evaluated, with the reason. */
  async brokenRules(): Promise<string[]> {
    const { groups } = await this.ask<{
      groups: { rules: { name: string; health: string; lastError?: string }[] }[];
    }>("rules", {});
    return groups
      .flatMap(({ rules }) => rules)
      .filter(({ health }) => health !== "ok")
      .map(({ name, health, lastError }) => `${name} is ${health}: ${lastError ?? ""}`);
  }

  private async ask<T>(path: string, parameters: Readonly<Record<string, string>>): Promise<T> {
    const response = await fetch(`${this.url}/${path}?${new URLSearchParams(parameters).toString()}`);
    const answer = (await response.json()) as { status: string; data: T; error?: string };
    if (answer.status !== "success")
      throw new Error(`Prometheus refused ${JSON.stringify(parameters)}: ${answer.error ?? response.status}`);
    return answer.data;
  }
}

/** A port of 127.0.0.1 that nobody listened on a moment ago. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => {
        resolve(port);
      });
    });
  });
}
