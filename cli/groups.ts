/**
 * Names and one-line summaries of every top-level command, so that help and completion need not load them. main.ts loads
 * the one that is called. Data only.
 */
export interface GroupSummary {
  readonly name: string;
  readonly summary: string;
  /** Heading in the root help. */
  readonly section: "Cluster" | "Containers" | "Machine" | "Tools";
}

export const GROUPS: readonly GroupSummary[] = [
  { name: "init", summary: "Make this machine the first manager of a new cluster", section: "Cluster" },
  { name: "join", summary: "Join this machine to a cluster", section: "Cluster" },
  {
    name: "stack",
    summary: "Deploy and look after stacks of services from Compose files",
    section: "Cluster",
  },
  { name: "service", summary: "Create, scale, update and watch services", section: "Cluster" },
  { name: "node", summary: "Look after the machines of the cluster", section: "Cluster" },
  {
    name: "swarm",
    summary: "Tokens, settings, unlocking and certificates of the cluster",
    section: "Cluster",
  },
  { name: "secret", summary: "Secrets, kept encrypted and given to tasks in memory", section: "Cluster" },
  { name: "config", summary: "Configuration files for tasks", section: "Cluster" },
  { name: "network", summary: "Networks of the cluster and of this machine", section: "Cluster" },
  { name: "run", summary: "Create and run a container on this machine", section: "Containers" },
  { name: "ps", summary: "List containers of this machine", section: "Containers" },
  { name: "exec", summary: "Run a command in a running container", section: "Containers" },
  { name: "attach", summary: "Attach to a running container", section: "Containers" },
  { name: "logs", summary: "Show the logs of a container", section: "Containers" },
  { name: "create", summary: "Create a container without starting it", section: "Containers" },
  { name: "start", summary: "Start containers", section: "Containers" },
  { name: "stop", summary: "Stop containers", section: "Containers" },
  { name: "restart", summary: "Restart containers", section: "Containers" },
  { name: "kill", summary: "Send a signal to containers", section: "Containers" },
  { name: "pause", summary: "Freeze containers", section: "Containers" },
  { name: "unpause", summary: "Thaw containers", section: "Containers" },
  { name: "wait", summary: "Wait until containers stop and print their exit codes", section: "Containers" },
  { name: "rm", summary: "Remove containers", section: "Containers" },
  { name: "rename", summary: "Rename a container", section: "Containers" },
  { name: "top", summary: "Show the processes of a container", section: "Containers" },
  { name: "stats", summary: "Show what containers use", section: "Containers" },
  { name: "port", summary: "Show the published ports of a container", section: "Containers" },
  { name: "update", summary: "Change limits of containers", section: "Containers" },
  { name: "diff", summary: "Show what changed in a container's files", section: "Containers" },
  { name: "cp", summary: "Copy files between a container and this machine", section: "Containers" },
  { name: "export", summary: "Write a container's files as a tar", section: "Containers" },
  { name: "commit", summary: "Make an image from a container", section: "Containers" },
  { name: "container", summary: "All verbs of containers", section: "Containers" },
  { name: "image", summary: "List, load, save, import, tag and remove images", section: "Machine" },
  { name: "images", summary: "List images", section: "Machine" },
  { name: "load", summary: "Load images from a tar", section: "Machine" },
  { name: "save", summary: "Write images to a tar", section: "Machine" },
  { name: "import", summary: "Make an image from a tar of a root file system", section: "Machine" },
  { name: "pull", summary: "Fetch an image from a registry", section: "Machine" },
  { name: "push", summary: "Upload an image to a registry", section: "Machine" },
  { name: "login", summary: "Log in to a registry", section: "Machine" },
  { name: "logout", summary: "Forget the credentials of a registry", section: "Machine" },
  { name: "build", summary: "Build an image from a Dockerfile", section: "Machine" },
  { name: "tag", summary: "Give an image another name", section: "Machine" },
  { name: "rmi", summary: "Remove images", section: "Machine" },
  { name: "history", summary: "Show the layers of an image", section: "Machine" },
  { name: "search", summary: "Find images on a registry", section: "Machine" },
  { name: "builder", summary: "Build images, and clean the cache of builds", section: "Machine" },
  { name: "plugin", summary: "Plugins of this machine", section: "Machine" },
  { name: "volume", summary: "Volumes of this machine", section: "Machine" },
  { name: "system", summary: "Disk use, clean-up, information", section: "Machine" },
  { name: "info", summary: "Show the state of this machine and its cluster", section: "Machine" },
  { name: "version", summary: "Show the versions of client and daemon", section: "Machine" },
  { name: "events", summary: "Follow what happens", section: "Machine" },
  { name: "inspect", summary: "Show any object as JSON", section: "Machine" },
  { name: "daemon", summary: "Run the daemon of this machine", section: "Machine" },
  {
    name: "dev",
    summary: "A cluster of several hosts on this one machine, to try things and to test",
    section: "Tools",
  },
  { name: "context", summary: "Names for the daemons you talk to", section: "Tools" },
  { name: "completion", summary: "Print a completion script for bash, zsh or fish", section: "Tools" },
];
