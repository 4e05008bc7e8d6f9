import type { TSchema } from 'typebox';
import { Account, CreateAccount, OwnAccount, PatchAccount, Quotas, QuotasPatch } from './account.ts';
import { Deleted, Idle, IdlePatch } from './common.ts';
import { ErrorBody } from './error-body.ts';
import { Event } from './event.ts';
import { ExecResult, ExecVm } from './exec.ts';
import { Health, Ready } from './health.ts';
import { IdleSimulation, LeaseVm, SimulateIdle, VmLease, VmWhy } from './idle.ts';
import { CreateImage, Image } from './image.ts';
import { CreateKey, Key, NewKey } from './key.ts';
import { FileChange, FileEntry, FileFacts, SnapshotDiff } from './saved-file.ts';
import { ForkVm, ImportedSnapshot, PatchSnapshot, RestoreVm, Snapshot, SnapshotVm } from './snapshot.ts';
import { VmMetrics } from './metrics.ts';
import { CreateRoute, PatchRoute, Route, WakeRules } from './route.ts';
import { CreateTemplate, PatchTemplate, Template } from './template.ts';
import { CreateVm, NoFields, PatchVm, StateReason, StopVm, Vm } from './vm.ts';

/** Every schema that has a name of its own, for the API's description. */
export const SCHEMAS: readonly TSchema[] = [
  Account,
  CreateAccount,
  CreateImage,
  CreateKey,
  CreateRoute,
  CreateTemplate,
  CreateVm,
  Deleted,
  ErrorBody,
  Event,
  ExecResult,
  ExecVm,
  FileChange,
  FileEntry,
  FileFacts,
  ForkVm,
  Health,
  Idle,
  IdlePatch,
  IdleSimulation,
  Image,
  ImportedSnapshot,
  Key,
  LeaseVm,
  NewKey,
  NoFields,
  OwnAccount,
  PatchAccount,
  PatchRoute,
  PatchSnapshot,
  PatchTemplate,
  PatchVm,
  Quotas,
  QuotasPatch,
  Ready,
  SnapshotDiff,
  RestoreVm,
  Route,
  SimulateIdle,
  Snapshot,
  SnapshotVm,
  StateReason,
  StopVm,
  Template,
  Vm,
  VmLease,
  VmMetrics,
  VmWhy,
  WakeRules,
];
