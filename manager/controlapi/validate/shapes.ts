/** The types of all fields that the manager or a worker reads of the specs (model/specs.ts), as data for shape.ts. */
import type { Shape } from "./shape.ts";

const labels: Shape = { map: "string" };
const strings: Shape = { list: "string" };
const driver: Shape = { fields: { Name: "string", Options: { map: "string" } } };
const fileTarget: Shape = { fields: { Name: "string", UID: "string", GID: "string", Mode: "integer" } };

const mount: Shape = {
  fields: {
    Type: "string",
    Source: "string",
    Target: "string",
    ReadOnly: "boolean",
    Consistency: "string",
    BindOptions: {
      fields: {
        Propagation: "string",
        NonRecursive: "boolean",
        CreateMountpoint: "boolean",
        ReadOnlyNonRecursive: "boolean",
        ReadOnlyForceRecursive: "boolean",
      },
    },
    VolumeOptions: {
      fields: { NoCopy: "boolean", Labels: labels, Subpath: "string", DriverConfig: driver },
    },
    ImageOptions: { fields: { Subpath: "string" } },
    TmpfsOptions: { fields: { SizeBytes: "integer", Mode: "integer", Options: { list: strings } } },
  },
};

const container: Shape = {
  fields: {
    Image: "string",
    Labels: labels,
    Command: strings,
    Args: strings,
    Hostname: "string",
    Env: strings,
    Dir: "string",
    User: "string",
    Groups: strings,
    TTY: "boolean",
    OpenStdin: "boolean",
    ReadOnly: "boolean",
    Mounts: { list: mount },
    StopSignal: "string",
    StopGracePeriod: "integer",
    Healthcheck: {
      fields: {
        Test: strings,
        Interval: "integer",
        Timeout: "integer",
        StartPeriod: "integer",
        StartInterval: "integer",
        Retries: "integer",
      },
    },
    Hosts: strings,
    DNSConfig: { fields: { Nameservers: strings, Search: strings, Options: strings } },
    Secrets: { list: { fields: { SecretID: "string", SecretName: "string", File: fileTarget } } },
    Configs: { list: { fields: { ConfigID: "string", ConfigName: "string", File: fileTarget } } },
    Isolation: "string",
    Init: "boolean",
    Sysctls: { map: "string" },
    CapabilityAdd: strings,
    CapabilityDrop: strings,
    Ulimits: { list: { fields: { Name: "string", Soft: "integer", Hard: "integer" } } },
    OomScoreAdj: "integer",
    Privileges: {
      fields: {
        CredentialSpec: { fields: { Config: "string", File: "string", Registry: "string" } },
        Seccomp: { fields: { Mode: "string", Profile: "string" } },
        AppArmor: { fields: { Mode: "string" } },
        NoNewPrivileges: "boolean",
      },
    },
  },
};

const resources: Shape = {
  fields: {
    NanoCPUs: "integer",
    MemoryBytes: "integer",
    Pids: "integer",
    GenericResources: {
      list: {
        fields: {
          NamedResourceSpec: { fields: { Kind: "string", Value: "string" } },
          DiscreteResourceSpec: { fields: { Kind: "string", Value: "integer" } },
        },
      },
    },
  },
};

const networks: Shape = {
  list: { fields: { Target: "string", Aliases: strings, DriverOpts: { map: "string" } } },
};

const updateConfig: Shape = {
  fields: {
    Parallelism: "integer",
    Delay: "integer",
    FailureAction: "string",
    Monitor: "integer",
    MaxFailureRatio: "number",
    Order: "string",
  },
};

export const SERVICE_SHAPE: Shape = {
  fields: {
    Name: "string",
    Labels: labels,
    TaskTemplate: {
      fields: {
        ContainerSpec: container,
        Resources: { fields: { Limits: resources, Reservations: resources } },
        RestartPolicy: {
          fields: { Condition: "string", Delay: "integer", MaxAttempts: "integer", Window: "integer" },
        },
        Placement: {
          fields: {
            Constraints: strings,
            Preferences: { list: { fields: { Spread: { fields: { SpreadDescriptor: "string" } } } } },
            MaxReplicas: "integer",
            Platforms: { list: { fields: { Architecture: "string", OS: "string" } } },
          },
        },
        Networks: networks,
        LogDriver: driver,
        ForceUpdate: "integer",
        Runtime: "string",
      },
    },
    Mode: {
      fields: {
        Replicated: { fields: { Replicas: "integer" } },
        Global: "object",
        ReplicatedJob: { fields: { MaxConcurrent: "integer", TotalCompletions: "integer" } },
        GlobalJob: "object",
      },
    },
    UpdateConfig: updateConfig,
    RollbackConfig: updateConfig,
    Networks: networks,
    EndpointSpec: {
      fields: {
        Mode: "string",
        Ports: {
          list: {
            fields: {
              Name: "string",
              Protocol: "string",
              TargetPort: "integer",
              PublishedPort: "integer",
              PublishMode: "string",
            },
          },
        },
      },
    },
  },
};

export const NODE_SHAPE: Shape = {
  fields: { Name: "string", Labels: labels, Role: "string", Availability: "string" },
};

export const NETWORK_SHAPE: Shape = {
  fields: {
    Name: "string",
    Labels: labels,
    Driver: "string",
    Options: { map: "string" },
    IPAM: {
      fields: {
        Driver: "string",
        Options: { map: "string" },
        Config: {
          list: {
            fields: {
              Subnet: "string",
              IPRange: "string",
              Gateway: "string",
              AuxiliaryAddresses: { map: "string" },
            },
          },
        },
      },
    },
    Internal: "boolean",
    Attachable: "boolean",
    Ingress: "boolean",
    EnableIPv6: "boolean",
    ConfigOnly: "boolean",
    ConfigFrom: { fields: { Network: "string" } },
    Scope: "string",
  },
};

/** Secrets and configs. */
export const BLOB_SHAPE: Shape = {
  fields: { Name: "string", Labels: labels, Data: "string", Driver: driver, Templating: driver },
};

export const IMAGE_SHAPE: Shape = {
  fields: {
    Name: "string",
    Labels: labels,
    Digest: "string",
    MediaType: "string",
    ManifestBytes: "integer",
    SizeBytes: "integer",
    ImageID: "string",
    Platform: { fields: { OS: "string", Architecture: "string" } },
  },
};

export const CLUSTER_SHAPE: Shape = {
  fields: {
    Name: "string",
    Labels: labels,
    Orchestration: { fields: { TaskHistoryRetentionLimit: "integer" } },
    Raft: { map: "integer" },
    Dispatcher: { fields: { HeartbeatPeriod: "integer" } },
    CAConfig: {
      fields: {
        // A hundred days in nanoseconds are more than the integers that are exact here.
        NodeCertExpiry: "number",
        ExternalCAs: { list: "anything" },
        SigningCACert: "string",
        SigningCAKey: "string",
        ForceRotate: "integer",
      },
    },
    TaskDefaults: { fields: { LogDriver: driver } },
    EncryptionConfig: { fields: { AutoLockManagers: "boolean" } },
  },
};
