// Drives a Jenkins at the address given, which package provider/jenkins starts in a test, with a client that was written for the real one. Each step says what the client must see.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const require = createRequire(new URL('../../.cache/compat-jenkins/package.json', import.meta.url));
const Jenkins = require('jenkins');

const [host] = process.argv.slice(2);
const as = (user, password, more = {}) => new Jenkins({ baseUrl: `http://${user}:${password}@${host}/ci`, crumbIssuer: false, ...more });
const jenkins = as('bot', '11aa');

const fails = async (promise, status) => {
  const err = await promise.then(() => assert.fail('it did not fail'), (e) => e);
  if (status) assert.equal(err.res?.statusCode ?? (err.notFound && 404), status, err);
  return err;
};
const until = async (ask, ok) => {
  for (let i = 0; i < 200; i++) {
    const got = await ask();
    if (ok(got)) return got;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.fail('it did not come about');
};
const started = (id) => until(() => jenkins.queue.item(id), (item) => item.executable);

const steps = {
  'says what it is': async () => {
    const info = await jenkins.info();
    assert.equal(info.mode, 'NORMAL');
    assert.deepEqual(info.jobs.map((j) => j.name), ['shop', 'alone']);
    assert.ok(info.jobs[1].color && info.jobs[1].url);
  },
  'knows jobs in folders, and branches': async () => {
    assert.equal(await jenkins.job.exists('shop/web'), true);
    assert.equal(await jenkins.job.exists('shop/nowhere'), false);
    const job = await jenkins.job.get('shop/web');
    assert.equal(job._class, 'hudson.model.FreeStyleProject');
    assert.equal(job.fullName, 'shop/web');
    assert.equal(job.allBuilds, undefined, 'allBuilds shows only when a tree names it');
    assert.equal(job.builds.length, 100, 'builds are the newest hundred');
    assert.deepEqual(Object.keys(job.builds[0]).sort(), ['_class', 'number', 'url']);
    assert.equal(job.lastBuild.number, job.nextBuildNumber - 1);
    const branch = await jenkins.job.get('shop/site/feature%2Fx');
    assert.equal(branch.name, 'feature%2Fx');
    assert.match(branch.url, /job\/feature%252Fx\/$/);
    await fails(jenkins.job.get('shop/nowhere'), 404);
  },
  'reads trees and depths': async () => {
    const job = await jenkins.job.get('shop/web', { tree: 'name,allBuilds[number,result]{100,103},builds[number]{,1}' });
    assert.equal(job.allBuilds.length, 3);
    assert.equal(job.builds.length, 1);
    assert.deepEqual(Object.keys(job.allBuilds[0]).sort(), ['_class', 'number', 'result']);
    assert.equal(job.allBuilds[0].number, job.builds[0].number - 100);
    const names = await jenkins.job.list({ name: 'shop' });
    assert.deepEqual(names.map((j) => j.name), ['web', 'site']);
    const deep = await jenkins.job.get('shop/web', { depth: 1 });
    assert.equal(typeof deep.builds[0].building, 'boolean');
  },
  'builds with parameters, from the queue on': async () => {
    const id = await jenkins.job.build({ name: 'shop/web', parameters: { BRANCH: 'topic', NOBODY_KNOWS: 'x' } });
    assert.ok(Number.isInteger(id));
    const waiting = await jenkins.queue.item(id);
    assert.equal(waiting.executable, undefined);
    assert.match(waiting.why, /executor/);
    const { executable } = await started(id);
    const build = await until(() => jenkins.build.get('shop/web', executable.number), (b) => !b.building);
    assert.equal(build.result, 'SUCCESS');
    assert.equal(build.queueId, id);
    assert.ok(build.timestamp > 1e12);
    const parameters = build.actions.find((a) => a.parameters).parameters;
    assert.deepEqual(parameters.map((p) => [p.name, p.value]), [['BRANCH', 'topic']], 'what the job has no parameter for is passed over');
    const [cause] = build.actions.find((a) => a.causes).causes;
    assert.equal(cause.userId, 'bot');
    assert.ok(build.actions.some((a) => Object.keys(a).length === 0), 'what is not for the API is {}');
  },
  'shows a log while it grows': async () => {
    const { executable } = await started(await jenkins.job.build('alone'));
    let text = '';
    await new Promise((resolve, reject) => {
      const log = jenkins.build.logStream('alone', executable.number, { delay: 5 });
      log.on('data', (part) => { text += part; });
      log.on('error', reject);
      log.on('end', resolve);
    });
    assert.equal(text, 'Started by Build Bot\none\ntwo\nFinished: SUCCESS\n');
    assert.equal(await jenkins.build.log('alone', executable.number), text);
  },
  'stops a build': async () => {
    const { executable } = await started(await jenkins.job.build('shop/site/main'));
    assert.equal((await jenkins.build.get('shop/site/main', executable.number)).building, true);
    await jenkins.build.stop('shop/site/main', executable.number);
    assert.equal((await jenkins.build.get('shop/site/main', executable.number)).result, 'ABORTED');
    await fails(jenkins.build.get('shop/site/main', 4711), 404);
  },
  'takes something out of the queue': async () => {
    const id = await jenkins.job.build({ name: 'shop/web', parameters: { BRANCH: 'never' } });
    assert.ok((await jenkins.queue.list()).some((item) => item.id === id && item.task.name === 'web'));
    // The client wants 302, as Jenkins answered before it gave 204; it is done all the same.
    await fails(jenkins.queue.cancel(id));
    assert.equal((await jenkins.queue.item(id)).cancelled, true);
    await fails(jenkins.queue.item(4711), 404);
  },
  'refuses what cannot be': async () => {
    await jenkins.job.disable('alone');
    assert.equal((await jenkins.job.get('alone')).color, 'disabled');
    await fails(jenkins.job.build('alone'), 409);
    await jenkins.job.enable('alone');
    await fails(jenkins.job.build({ name: 'alone', parameters: { BRANCH: 'x' } }), 400);
    await fails(as('bot', 'wrong').info(), 401);
    const open = new Jenkins({ baseUrl: `http://${host}/ci`, crumbIssuer: false });
    const err = await fails(open.info(), 403);
    assert.equal(err.res.headers['x-required-permission'], 'hudson.model.Hudson.Read');
    assert.match(err.res.headers['content-type'], /html/);
  },
  'wants a crumb of who shows a password': async () => {
    await fails(as('bot', 'pw').job.build('alone'), 403);
    assert.ok(Number.isInteger(await as('bot', 'pw', { crumbIssuer: true }).job.build('alone')));
  },
};

for (const [name, step] of Object.entries(steps)) {
  await step().catch((err) => { throw new Error(`${name}: ${err.message}`, { cause: err }); });
  console.log(`ok: ${name}`);
}
