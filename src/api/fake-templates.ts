import { parseImageId } from '../base/ids.ts';
import { DEFAULT_IDLE, mergeIdle } from '../model/create-request.ts';
import type { Template } from '../model/records.ts';
import type { TemplateFields } from '../ops/hatch.ts';

/** A template with what a request says of it. */
export const templateFields = (
  from: Omit<Template, 'accountId' | 'id' | 'createdAt' | 'updatedAt'>,
  to: TemplateFields,
) => ({
  description: to.description === undefined ? from.description : to.description,
  imageId: to.imageId === undefined ? from.imageId : (parseImageId(to.imageId ?? '') ?? null),
  vcpuCount: to.vcpuCount === undefined ? from.vcpuCount : to.vcpuCount,
  memMib: to.memMib === undefined ? from.memMib : to.memMib,
  diskMib: to.diskMib === undefined ? from.diskMib : to.diskMib,
  userData: to.userData === undefined ? from.userData : to.userData,
  bootArgs: to.bootArgs === undefined ? from.bootArgs : to.bootArgs,
  idle: to.idle === undefined ? from.idle : to.idle && mergeIdle(from.idle ?? DEFAULT_IDLE, to.idle),
  labels: to.labels ?? from.labels,
});
/** A template that says nothing. */
export const NOTHING = {
  description: null,
  imageId: null,
  vcpuCount: null,
  memMib: null,
  diskMib: null,
  userData: null,
  bootArgs: null,
  idle: null,
  labels: {},
};
